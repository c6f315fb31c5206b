"""The page one step off: every answer one version old, and a killed run goes on to the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rft.recipe.load import load_recipe
from rft.runs.folder import RunFolder
from rft.runs.view import View

pytestmark = pytest.mark.engine

RECIPE = """\
name: ahead
seed: 3
model: {source: packaged:tiny, dtype: float32}
data: {train: tasks.jsonl, curriculum: {}}
evaluator: ./grader.py:early_letters
rollout: {group_size: 4, max_new_tokens: 12, one_step_off: true, refill_rounds: 1}
train:
  steps: 4
  prompts_per_step: 2
  learning_rate: 1e-3
  checkpoint: {every: 1, keep: 4}
eval: {tasks: 4, every: 2}
"""
GRADER = """\
from rft import evaluator


@evaluator
def early_letters(text):
    return sum(byte % 64 < 32 for byte in text.encode()) / max(1, len(text.encode()))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("ahead")
    (folder / "grader.py").write_text(GRADER)
    rows = [{"prompt": f"Say something about {number}."} for number in range(24)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ahead.yaml").write_text(RECIPE)
    train(folder / "ahead.yaml", f"train.output_dir={folder / 'runs'}")
    return RunFolder.open("ahead", folder / "runs")


def train(recipe: Path, *overrides: str, resume: RunFolder | None = None) -> None:
    from rft.train import train

    loaded = load_recipe(recipe, list(overrides))
    train(loaded, view=View(loaded.train.steps, quiet=True), resume=resume)


def numbers(run: RunFolder) -> list[dict[str, Any]]:
    """A run's metrics without what depends on the machine's mood."""
    moods = ("time/", "memory/", "rollout/tokens_per_s", "eval/cached", "checkpoint/")
    return [{key: step[key] for key in step if not key.startswith(moods)} for step in run.metrics()]


def test_every_answer_but_the_first_steps_is_one_version_old(run):
    import pyarrow.parquet

    for step in (1, 2, 3, 4):
        rows = pyarrow.parquet.read_table(run.path / "rollouts" / f"step-{step:06d}.parquet").to_pylist()
        assert {row["weight_version"] for row in rows} == {max(0, step - 2)}
    steps = run.metrics()
    assert [step["rollout/staleness"] for step in steps] == [0, 1, 1, 1]
    assert all(step["update/steps"] == 1 and step["rollout/stale_frac"] == 0 for step in steps)
    assert all("curriculum/between_frac" in step and "groups/refilled" in step for step in steps)


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_killed_run_goes_on_to_the_same_weights_and_metrics(run, tmp_path, killed_after):
    """What is left of a run whose newest whole checkpoint is an earlier one, as after a kill."""
    left = tmp_path / "runs" / "ahead" / run.id
    shutil.copytree(run.path, left)
    for path in (left / "checkpoints").iterdir():
        if int(path.name.rpartition("-")[2]) > killed_after:
            shutil.rmtree(path)
    resumed = RunFolder.open(str(left))
    train(resumed.recipe_path, resume=resumed)
    last = Path("checkpoints", "step-000004", "model.safetensors")
    assert (left / last).read_bytes() == (run.path / last).read_bytes()
    assert numbers(resumed) == numbers(run)
