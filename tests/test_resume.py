"""A run that is killed and gone on with ends where an uninterrupted one does: same weights, same metrics.

`benchmarks/kill.py` does this at many random moments with real kills. Here it is one real kill, and one break
at each place where a run's files are between two states.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
    weights: str
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
    (weights,) = (path for path in newest.glob("*.safetensors"))
    moods = ("time/", "memory/", "rollout/tokens_per_s", "eval/cached")
    metrics = [
        {name: value for name, value in row.items() if not name.startswith(moods)} for row in run.metrics()
    ]
    return End(run, hashlib.sha256(weights.read_bytes()).hexdigest(), metrics)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> End:
    """The uninterrupted run."""
    return train(write(tmp_path_factory.mktemp("whole")))


def killed_before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: Callable[..., bool]) -> None:
    honest = getattr(owner, name)

    def breaking(*values: Any, **options: Any) -> Any:
        if when(*values, **options):
            monkeypatch.setattr(owner, name, honest)
            raise Killed
        return honest(*values, **options)

    monkeypatch.setattr(owner, name, breaking)


def moments() -> Iterator[Any]:
    """(name, owner, what is not done any more, when): the last steps that a run's process gets to."""

    def second(progress: Progress, *_: Any, **__: Any) -> bool:
        return progress.step == 2

    def evaluated(run: RunFolder, step: int, groups: Any, split: str = "train") -> bool:
        return split == "heldout" and step == 2

    yield pytest.param("rft.progress", "Progress.save", second, id="recorded but not saved")
    yield pytest.param("rft.runs.folder", "RunFolder.write_rollouts", evaluated, id="evaluation")
    yield pytest.param(
        "rft.runs.folder", "RunFolder.record", lambda run, step, _: step == 1, id="no checkpoint"
    )
    yield pytest.param("rft.runs.folder", "RunFolder.write_report", lambda *_: True, id="report")


@pytest.mark.parametrize(("module", "place", "when"), list(moments()))
def test_wherever_it_breaks_off_it_ends_where_an_uninterrupted_run_does(
    whole, tmp_path, monkeypatch, module, place, when
):
    owner, _, name = place.partition(".")
    killed_before(monkeypatch, getattr(sys.modules[module], owner), name, when)
    folder = write(tmp_path)
    with pytest.raises(Killed):
        train(folder)
    run = RunFolder.open("killed", folder / "runs")
    again = train(folder, resume=run)
    assert again.weights == whole.weights
    assert again.metrics == whole.metrics
    assert best(run).heldout == best(whole.run).heldout
    # What was judged once is not judged again, though this evaluator is not deterministic.
    assert len((folder / "calls.txt").read_text()) == 4 * 8 + 5 * 4


def test_a_real_kill_in_the_second_step(whole, tmp_path):
    folder = write(tmp_path)
    process = subprocess.Popen(
        [RFT, "train", "killed.yaml"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not list(folder.glob("runs/killed/*/rollouts/step-000002.parquet")):
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run = RunFolder.open("killed", folder / "runs")
    assert run.status.word == "died"
    again = train(folder, resume=run)
    assert again.weights == whole.weights
    assert again.metrics == whole.metrics


def test_a_fork_goes_its_own_way_from_where_it_began(whole, tmp_path):
    folder = whole.run.path.parents[2]
    origin = Origin.find(f"{whole.run.path}@3")
    same = train(folder, fork=origin)
    assert same.run.path != whole.run.path
    assert same.weights == whole.weights
    for name in ("step", "loss", "reward/mean", "grad_norm", "heldout/mean"):  # what a run counts begins anew
        assert same.metrics[0][name] == whole.metrics[3][name]
    other = train(folder, "train.learning_rate=1e-4", fork=origin)
    assert (
        other.weights != whole.weights
        and other.metrics[0]["learning_rate"] < same.metrics[0]["learning_rate"]
    )
