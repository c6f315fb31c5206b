"""Trackers follow a run: each reads the run's folder in a thread of its own and hands on every step once.

The folder is the record and a tracker only a copy of it. So one that is slow lags behind, one that fails is
told of once and gets what it missed as soon as it works again, and neither holds training up. How far each
has come stands in `trackers/<name>.json`: a resumed run goes on with the same run of the tracker, and a step
that is computed a second time is not logged a second time. The mark is set before the step is handed on: a
kill between the two costs a tracker one step, where the other order would show one twice.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rft.errors import RunError
from rft.recipe.schema import Recipe, TrackerName
from rft.runs.files import to_json, write_whole
from rft.runs.folder import RunFolder
from rft.runs.tracker_kinds import KINDS, About
from rft.runs.tracker_views import configuration, rollout_table
from rft.secrets import redact

log = logging.getLogger("rft")

_PATIENCE_S = 30.0
"""How long the end of a run waits for trackers that lag."""


class Trackers:
    """All trackers of a recipe, while the run lasts.

        with Trackers(recipe, run, view.note) as trackers:
            run.record(step, metrics)
            trackers.wake()

    Raises UserError on entering when a tracker is not installed: before anything slow.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, note: Callable[[str], None]) -> None:
        self._recipe, self._run, self._note = recipe, run, note
        self._followers: list[_Follower] = []

    def __enter__(self) -> Trackers:
        names = dict.fromkeys(self._recipe.tracking.to)
        self._followers = [_Follower(name, self._recipe, self._run, self._note) for name in names]
        return self

    def wake(self) -> None:
        """There is something new in the run's folder. Returns at once."""
        for follower in self._followers:
            follower.wake()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for follower in self._followers:
            follower.end()
        for follower in self._followers:
            follower.join(_PATIENCE_S)


class _Follower:
    """One tracker, its thread, and how far it has come."""

    def __init__(
        self, name: TrackerName, recipe: Recipe, run: RunFolder, note: Callable[[str], None]
    ) -> None:
        self._name, self._recipe, self._run, self._note = name, recipe, run, note
        self._folder = run.path / "trackers" / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._tracker = KINDS[name](self._folder)
        self._mark = _Mark(self._folder.with_suffix(".json"))
        self._offset = 0  # in metrics.jsonl
        self._started = self._ending = self._complained = False
        self._news = threading.Event()
        # A daemon, begun with the first step: accelerate imports torch, which has to wait for the engine.
        self._thread = threading.Thread(target=self._follow, name=f"rft-{name}", daemon=True)

    def wake(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._news.set()

    def end(self) -> None:
        self._ending = True
        self._news.set()

    def join(self, patience_s: float) -> None:
        if not self._thread.is_alive():
            return
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self._note(f"tracking: {self._name} is still writing after {patience_s:.0f} s; left behind")

    def _follow(self) -> None:
        last = False
        while not last:
            self._news.wait()
            self._news.clear()
            last = self._ending
            try:
                self._catch_up()
                if last:
                    self._tracker.tracker.finish()
            except Exception as error:
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        told = redact(f"{type(error).__name__}: {' '.join(str(error).split())}")
        log.warning("tracking: %s after step %d: %s", self._name, self._mark.step, told)
        if not self._complained:
            self._complained = True
            self._note(
                f"tracking: {self._name} failed ({told}); the run goes on, and {self._name} gets what it "
                f"missed when it works again"
            )

    def _catch_up(self) -> None:
        """Hands on what is new. Where that fails, the next call begins with the step that failed."""
        if not self._started:
            self._start()
        if self._offset == 0:
            for step, values in _heldout_before(self._run):
                self._log(step, values)
        for row, after in complete_rows(self._run.path / "metrics.jsonl", self._offset):
            self._log(int(row.pop("step")), row)
            self._offset = after

    def _start(self) -> None:
        from accelerate import PartialState

        PartialState()  # accelerate's classes ask it whether they are the main process
        spec = self._recipe.tracking
        about = About(
            project=spec.project,
            run_name=f"{self._run.name}/{self._run.id}",
            run_id=self._run.id,
            folder=self._folder,
            args=spec.args.get(self._name, {}),
            config=configuration(self._recipe),
            known_as=self._mark.known_as,
        )
        known_as = self._tracker.start(about)
        self._started = True
        if self._mark.known_as is None:
            self._mark.known_as = known_as
            self._mark.save(self._mark.step)
            self._tracker.tracker.store_init_configuration(about.config)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        before = self._mark.step
        if step <= before:
            return
        finite = {key: value for key, value in values.items() if value is not None}
        table = rollout_table(self._run, step, self._recipe.tracking.rollouts)
        self._mark.save(step)
        try:
            self._tracker.log(step, finite, table)
        except Exception:
            self._mark.save(before)
            raise


class _Mark:
    """The last step a tracker was given, and what it calls the run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.step = -1
        self.known_as: str | None = None
        if path.exists():
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                self.step, self.known_as = int(kept["step"]), str(kept["known_as"])
            except (ValueError, LookupError) as error:
                raise RunError(
                    f"{path} cannot be read ({error}); remove it to report the run from its first step again"
                ) from error

    def save(self, step: int) -> None:
        self.step = step
        write_whole(self._path, to_json({"step": step, "known_as": self.known_as}) + "\n")


def _heldout_before(run: RunFolder) -> Iterator[tuple[int, dict[str, float]]]:
    """What the held-out tasks gave before the first step; it stands with the events, not with the steps."""
    for event in run.events():
        if event["kind"] == "heldout" and event["when"] == "before":
            yield event["step"], {key: value for key, value in event.items() if key.startswith("heldout/")}


def complete_rows(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line of a file of JSON objects from a byte on, with the byte after it."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):  # still being written, or torn by a kill
                return
            offset += len(line)
            yield json.loads(line), offset
