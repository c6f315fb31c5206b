"""The run folder: everything a run leaves behind, as plain files that outlive the process.

    runs/<name>/<id>/
      recipe.yaml       resolved: every key with the value that was used
      origin.json       the checkpoint it was forked from, if it was, see rft/fork.py
      status.json       running, finished, stopped or failed; with the process, to tell a killed run
      metrics.jsonl     one JSON object a step (rft/runs/metrics.py says what each key means)
      events.jsonl      what happened when: weight bindings, checkpoints, warnings
      scores.sqlite     verdicts on identical rollouts, see rft/scoring/cache.py; safe to delete
      journal.sqlite    evaluations made, so that none is paid for twice, see rft/scoring/journal.py
      rollouts/         every rollout with its tokens and its score, one Parquet file a step
      checkpoints/      step-000012/, see rft/runs/checkpoint.py
      failed/           batches of updates that were not applied, see rft/bad_steps.py
      trackers/         how far each tracker has come, and its files, see rft/runs/trackers.py
      logs/engine.log   the chatter of the libraries, see rft/runs/quiet.py
      report.md         before and after
      check.json, .md   the check of the evaluator, if it was checked

An id is its UTC start to the millisecond and two random letters, `20260314-092653-589kf`: sorted by name is
sorted by age.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rft.errors import RunError
from rft.runs.files import JsonLines, discard, write_whole
from rft.types import Group

State = Literal["running", "finished", "stopped", "failed"]
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    >>> Status("finished", step=60, steps=60).word
    'finished'
    """

    state: State
    step: int = 0
    """Completed steps."""
    steps: int = 0
    """Steps asked for."""
    message: str = ""
    """Why it stopped or failed."""
    pid: int = 0
    pid_start: str = ""
    """When the process started, by the kernel's count: a recycled pid is not the same process."""
    host: str = ""
    updated: str = ""

    @property
    def word(self) -> str:
        """The state as a reader needs it: a run whose process is gone is "died", not "running"."""
        if self.state != "running" or self.host != socket.gethostname():
            return self.state
        return "running" if _process_start(self.pid) == self.pid_start != "" else "died"


class RunFolder:
    """One run on disk. Writing is for the process that runs it; reading is safe at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics = JsonLines(path / "metrics.jsonl")
        self._events = JsonLines(path / "events.jsonl")

    @classmethod
    def create(
        cls, output_dir: str | Path, name: str, recipe_yaml: str, origin_json: str | None = None
    ) -> RunFolder:
        """Makes `<output_dir>/<name>/<id>/` with the resolved recipe and a fork's origin. Raises RunError."""
        if not name or name.startswith(".") or Path(name).name != name:
            raise RunError(f"a run's name becomes a folder, so it cannot be {name!r}; give a plain `name`")
        parent = Path(output_dir, name)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path = _new_folder(parent)
            for part in ("rollouts", "checkpoints", "logs"):
                (path / part).mkdir()
        except OSError as error:
            raise RunError(
                f"could not make a run folder in {parent}: {error.strerror}; "
                f"set train.output_dir to a folder you can write to"
            ) from error
        folder = cls(path)
        folder.set_status("running")
        if origin_json is not None:
            write_whole(folder.origin_path, origin_json)
        folder.write_recipe(recipe_yaml)  # last: a folder with a recipe is a run, and has all the rest
        return folder

    @classmethod
    def open(cls, which: str | Path, output_dir: str | Path = "runs") -> RunFolder:
        """A run by its path, its id, or its recipe's name (the newest of that name).

        Raises RunError with the nearest known name when there is none.
        """
        for place in (Path(which), Path(output_dir, which)):
            if (place / "recipe.yaml").is_file():
                return cls(place)
            newest = sorted(place.glob("*/recipe.yaml")) if place.is_dir() else []
            if newest:
                return cls(newest[-1].parent)
        known = list_runs(output_dir)
        for run in known:
            if run.id == str(which):
                return run
        if not known:
            raise RunError(
                f"no run {str(which)!r}: {output_dir}/ holds no runs; `rft train RECIPE` makes one"
            )
        words = sorted({word for run in known for word in (run.name, run.id)})
        near = difflib.get_close_matches(str(which), words, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "`rft runs list` shows them all"
        raise RunError(f"no run {str(which)!r} in {output_dir}/; {hint}")

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.path.resolve().parent.name

    @property
    def id(self) -> str:
        """UTC start and two random letters."""
        return self.path.resolve().name

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def origin_path(self) -> Path:
        """What it was forked from."""
        return self.path / "origin.json"

    @property
    def log_path(self) -> Path:
        """Where the libraries' chatter goes."""
        return self.path / "logs" / "engine.log"

    @property
    def scores_path(self) -> Path:
        """Verdicts that are known already."""
        return self.path / "scores.sqlite"

    @property
    def journal_path(self) -> Path:
        """Evaluations that were made."""
        return self.path / "journal.sqlite"

    @property
    def report_path(self) -> Path:
        """Before and after, in Markdown."""
        return self.path / "report.md"

    @property
    def check_path(self) -> Path:
        """What `rft evaluator check` said about the evaluator the run started with."""
        return self.path / "check.json"

    @property
    def checkpoints_path(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def stages_path(self) -> Path:
        """Where the runs of a recipe with stages are, each below its stage's name."""
        return self.path / "stages"

    def stages(self) -> list[RunFolder]:
        """The runs of its stages, in their order and each stage's newest; none for an ordinary run."""
        newest = {
            path.parent.parent: path.parent for path in sorted(self.stages_path.glob("*/*/recipe.yaml"))
        }
        return sorted(map(RunFolder, newest.values()), key=lambda run: int(run.name.partition("-")[0]))

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one step's metrics; they are on the disk when this returns. Raises RunError."""
        self._metrics.append({"step": step, **metrics})

    def metrics(self) -> list[dict[str, Any]]:
        """One mapping a step, in order. A step run again after a resume counts once, the last time."""
        by_step = {record["step"]: record for record in self._metrics.read()}
        return [by_step[step] for step in sorted(by_step)]

    def event(self, kind: str, **details: Any) -> None:
        """Appends to events.jsonl. Raises RunError."""
        self._events.append({"time": _now(), "kind": kind, **details})

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first."""
        return self._events.read()

    def write_rollouts(self, step: int, groups: Sequence[Group], split: str = "train") -> Path:
        """Stores one step's rollouts with their scores; columns in rft/runs/rollouts.py. Raises RunError."""
        # pyarrow is slow to import, and `rft runs list` does without.
        from rft.runs.rollouts import write_rollouts

        prefix = "step" if split == "train" else split
        path = self.path / "rollouts" / f"{prefix}-{step:06d}.parquet"
        write_rollouts(path, step, groups)
        return path

    def rollout_files(self, split: str = "train") -> list[Path]:
        """The files of one split, by step."""
        prefix = "step" if split == "train" else split
        return sorted((self.path / "rollouts").glob(f"{prefix}-*.parquet"))

    def marks(self) -> dict[str, int]:
        """Where the line files end now, in bytes: what `rewind` brings them back to."""
        return {lines.path.name: lines.size() for lines in (self._metrics, self._events)}

    def rewind(self, step: int, marks: Mapping[str, int]) -> None:
        """Forgets what was written down after a checkpoint, because it will be done again.

        Args:
            step: of the checkpoint; -1 forgets all.
            marks: as they were then; a file without one is emptied.

        Raises RunError when a file cannot be written.
        """
        for lines in (self._metrics, self._events):
            lines.cut(marks.get(lines.path.name, 0))
        for path in (self.path / "rollouts").glob("*-*.parquet"):
            if int(path.stem.rpartition("-")[2]) > step:
                discard(path)

    @property
    def is_blank(self) -> bool:
        """Whether nothing has been played, saved, checked or gone on with here."""
        work = ("rollouts/*", "checkpoints/*", "stages/*/*", self.check_path.stem + ".*")
        return not any(any(self.path.glob(pattern)) for pattern in work) and all(
            event["kind"] != "resumed" for event in self.events()
        )

    def remove(self) -> None:
        """Removes the folder with all that is in it, and its name's when no other run has it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def write_recipe(self, recipe_yaml: str) -> None:
        """Replaces recipe.yaml. Raises RunError."""
        write_whole(self.recipe_path, recipe_yaml)

    def write_report(self, markdown: str) -> None:
        """Replaces report.md. Raises RunError."""
        write_whole(self.report_path, markdown)

    def set_status(self, state: State, *, step: int = 0, steps: int = 0, message: str = "") -> None:
        """Replaces status.json; this process is named as the run's. Raises RunError."""
        pid = os.getpid()
        status = Status(state, step, steps, message, pid, _process_start(pid), socket.gethostname(), _now())
        write_whole(self.path / "status.json", json.dumps(asdict(status), indent=1) + "\n")

    @property
    def status(self) -> Status:
        """Where the run stands. Raises RunError when status.json is missing or damaged."""
        path = self.path / "status.json"
        try:
            return Status(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{path} cannot be read ({error}); the other files of the run can still be used"
            ) from error


def whole_of(run: RunFolder) -> RunFolder:
    """The run of all stages, for a run that is one of them; any other run itself."""
    above = run.path.resolve().parents
    if len(above) > 2 and above[1].name == "stages" and (above[2] / "recipe.yaml").is_file():
        return RunFolder(above[2])
    return run


def list_runs(output_dir: str | Path = "runs") -> list[RunFolder]:
    """Every run below `output_dir`, oldest first."""
    found = [RunFolder(recipe.parent) for recipe in Path(output_dir).glob("*/*/recipe.yaml")]
    return sorted(found, key=lambda run: (run.id, run.name))


def _new_folder(parent: Path) -> Path:
    while True:
        now = datetime.datetime.now(datetime.UTC)
        tail = "".join(secrets.choice(_ALPHABET) for _ in range(2))
        path = parent / f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}{tail}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _process_start(pid: int) -> str:
    """When that process started; "unknown" where the system does not tell, empty for no such process."""
    try:
        # The command, field 2, may hold spaces and brackets: count from its closing bracket on.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "unknown"
    return "unknown"
