"""A run that is killed and gone on with ends where an uninterrupted one does: same weights, same metrics.

`benchmarks/kill.py` does this at many random moments. Here one run is broken off at each place where its
files are between two states, one after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rft.fork import Origin
from rft.progress import Progress
from rft.recipe.load import load_recipe
from rft.runs.checkpoint import best
from rft.runs.folder import RunFolder
from rft.runs.view import View

pytestmark = pytest.mark.engine

RFT = Path(sys.executable).with_name("rft")
RECIPE = """\
name: killed
seed: 3
model: {source: packaged:tiny, dtype: float32}
data: {train: tasks.jsonl}
evaluator: {use: "./grader.py:early_letters", require_check: none}
rollout: {group_size: 4, max_new_tokens: 12}
train:
  steps: 4
  prompts_per_step: 2
  learning_rate: 1e-3
  optimizer: {schedule: cosine}
  checkpoint: {every: 1, keep: 2}
eval: {tasks: 4, every: 1, temperature: 1.0}
"""
GRADER = """\
from pathlib import Path

from rft import evaluator


@evaluator(deterministic=False)
def early_letters(text):
    with open(Path(__file__).with_name("calls.txt"), "a") as file:
        file.write("x")
    return sum(byte % 64 < 32 for byte in text.encode()) / max(1, len(text.encode()))
"""


class Killed(BaseException):
    """Ends a run in this process as abruptly as that can be done."""


class End(NamedTuple):
    run: RunFolder
    state: list[str]
    """Of the last checkpoint: hashes of its weights and of its memory."""
    metrics: list[dict[str, Any]]


def write(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "grader.py").write_text(GRADER)
    rows = [{"prompt": f"Say something about {number}."} for number in range(24)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "killed.yaml").write_text(RECIPE)
    return folder


def train(folder: Path, *overrides: str, resume: RunFolder | None = None, fork: Origin | None = None) -> End:
    from rft.train import train

    source = resume.recipe_path if resume else folder / "killed.yaml"
    recipe = load_recipe(source, [f"train.output_dir={folder / 'runs'}", *overrides])
    summary = train(recipe, view=View(recipe.train.steps, quiet=True), resume=resume, fork=fork)
    return end(RunFolder(Path(summary.run)))


def end(run: RunFolder) -> End:
    """What must be equal."""
    newest = max(run.checkpoints_path.glob("step-*"))
    state = [*newest.glob("*.safetensors"), newest / "trainer" / "memory.pt"]
    moods = ("time/", "memory/", "rollout/tokens_per_s", "eval/cached")
    metrics = [
        {name: value for name, value in row.items() if not name.startswith(moods)} for row in run.metrics()
    ]
    return End(run, [hashlib.sha256(path.read_bytes()).hexdigest() for path in state], metrics)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> End:
    """The uninterrupted run."""
    return train(write(tmp_path_factory.mktemp("whole")))


def second_save(progress: Progress, *_: Any, **__: Any) -> bool:
    return progress.step == 2


def second_evaluation(run: RunFolder, step: int, groups: Any, split: str = "train") -> bool:
    return split == "heldout" and step == 2


def test_wherever_it_breaks_off_it_ends_where_an_uninterrupted_run_does(whole, tmp_path, monkeypatch):
    folder = write(tmp_path)
    process = subprocess.Popen(
        [RFT, "train", "killed.yaml"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not list(folder.glob("runs/killed/*/rollouts/heldout-000000.parquet")):
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run = RunFolder.open("killed", folder / "runs")
    assert run.status.word == "died"
    before = len((folder / "calls.txt").read_text())

    for owner, name, when in (
        (RunFolder, "write_rollouts", second_evaluation),
        (Progress, "save", second_save),
        (RunFolder, "write_report", lambda *_: True),
    ):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, killing(getattr(owner, name), when))
            train(folder, resume=run)
    again = train(folder, resume=run)
    assert again.state == whole.state
    assert again.metrics == whole.metrics
    assert best(run).heldout == best(whole.run).heldout
    # What was judged once is not judged again, though this evaluator is not deterministic: of 4 steps of 8
    # and 5 evaluations of 4, at least the first evaluation was written down when the process was killed.
    assert len((folder / "calls.txt").read_text()) - before <= 4 * 8 + 4 * 4


def killing(honest: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    """A function that is not done any more when it is called so."""

    def killing_or_not(*values: Any, **options: Any) -> Any:
        if when(*values, **options):
            raise Killed
        return honest(*values, **options)

    return killing_or_not


def test_a_fork_with_the_same_recipe_ends_where_its_origin_does(whole):
    origin = Origin.find(f"{whole.run.path}@3")
    fork = train(whole.run.path.parents[2], fork=origin)
    assert fork.run.path != whole.run.path
    assert fork.state[0] == whole.state[0]  # its memory not quite: judging its start anew has drawn numbers
    for name in ("step", "loss", "reward/mean", "grad_norm", "heldout/mean"):  # what a run counts begins anew
        assert fork.metrics[0][name] == whole.metrics[3][name]
