"""Learning from examples on the tiny model, with the real engine: parity, resume, Ctrl-C, wrong input."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rft.errors import DataError, UserError
from rft.recipe.load import load_recipe
from rft.runs.folder import RunFolder
from rft.runs.metrics import find_metric
from rft.runs.summary import Summary
from rft.runs.view import View

pytestmark = pytest.mark.engine

RECIPE = """\
name: tiny
seed: 3
model: {source: packaged:tiny, dtype: float32}
data: {train: rows.jsonl}
evaluator: {use: ./grader.py:like_hello, require_check: none}
algorithm: sft
rollout: {max_new_tokens: 12}
train:
  steps: 4
  prompts_per_step: 4
  learning_rate: 3e-3
  checkpoint: {every: 1, keep: 9}
engine: {parity_every: 1}
eval: {tasks: 4, every: 0}
"""
GRADER = """\
from rft import evaluator


@evaluator
def like_hello(text):
    return sum(letter in "hello" for letter in text) / max(1, len(text))
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grader.py").write_text(GRADER)
    rows = [
        {
            "prompt": f"Say something about {number}.",
            "completion": "hello" if number % 2 else "goodbye",
            "chosen": "hello",
            "rejected": "goodbye",
            "label": number % 2 == 1,
        }
        for number in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def train(recipe: Path, *overrides: str, resume: RunFolder | None = None) -> Summary:
    from rft.stages import run_recipe

    loaded = load_recipe(resume.recipe_path if resume else recipe, list(overrides))
    return run_recipe(loaded, view=View(loaded.train.steps, quiet=True), resume=resume)


def adapter_or_model(run: RunFolder, step: int) -> dict[str, Any]:
    from safetensors.torch import load_file

    folder = run.checkpoints_path / f"step-{step:06d}"
    return load_file(next(folder.glob("*model.safetensors")))


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("adapter", [False, True])
def test_the_engine_answers_with_what_was_learned(recipe, kind, adapter):
    extra = ["model.adapter.rank=4", "train.learning_rate=1e-2"] if adapter else []
    run = RunFolder.open(train(recipe, f"algorithm={kind}", *extra).run)
    steps = run.metrics()
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert {key for step in steps for key in step if find_metric(key) is None} == {"step"}
    for step in steps:
        assert step["parity/mean"] < 1e-5  # after each publication, by log-probabilities
        assert step["update/steps"] == 1 and step["grad_norm"] > 0 and step["weight_version"] == step["step"]
    # KTO's loss compares with a KL estimate that grows too, and a step may hold answers of one kind only.
    assert kind == "kto" or steps[-1]["loss"] < steps[0]["loss"]
    margins = [step["examples/margin"] for step in steps if "examples/margin" in step]
    assert bool(margins) == (kind != "sft")
    assert not margins or margins[-1] > 0.01
    assert len(run.rollout_files("heldout")) == 2 and run.rollout_files() == []
    assert sorted(path.name for path in (run.path / "logs").iterdir()) == ["engine.log"]


def test_going_on_ends_with_the_same_bits_dropout_included(recipe):
    words = ["model.adapter.rank=4", "model.adapter.dropout=0.3", "train.learning_rate=1e-2"]
    whole = RunFolder.open(train(recipe, *words).run)
    part = RunFolder.open(train(recipe, *words, "train.steps=2", "tracking=tensorboard").run)
    train(recipe, "train.steps=4", resume=part)
    assert json.loads((part.path / "trackers/tensorboard.json").read_text())["step"] == 4
    ours, theirs = adapter_or_model(part, 4), adapter_or_model(whole, 4)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert [step["loss"] for step in part.metrics()] == [step["loss"] for step in whole.metrics()]


def test_a_preference_run_that_goes_on_keeps_the_reference_it_began_with(recipe):
    words = ["algorithm=dpo", "train.learning_rate=1e-2"]
    whole = RunFolder.open(train(recipe, *words).run)
    part = RunFolder.open(train(recipe, *words, "train.steps=2").run)
    train(recipe, "train.steps=4", resume=part)
    margins = [[step["examples/margin"] for step in run.metrics()] for run in (whole, part)]
    assert margins[0] == margins[1] and margins[0][2] > 0.01  # a new reference would start over at 0


def test_ctrl_c_finishes_the_step_and_saves(recipe, monkeypatch):
    import rft.offline

    def interrupting(*arguments: Any) -> Any:
        metrics = step_metrics(*arguments)
        if metrics["weight_version"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return metrics

    step_metrics = rft.offline.step_metrics
    monkeypatch.setattr(rft.offline, "step_metrics", interrupting)
    summary = train(recipe)
    run = RunFolder.open(summary.run)
    assert summary.steps == 2 and run.status.state == "stopped"
    assert (run.checkpoints_path / "step-000002").is_dir()


def test_a_wrong_argument_is_said_before_a_model_loads(recipe):
    with pytest.raises(UserError, match="did you mean 'loss_type'"):
        train(recipe, "algorithm.args.los_type=dft")


def test_a_missing_field_is_said_before_a_model_loads(recipe):
    with pytest.raises(DataError, match="rows.jsonl:1: no completion"):
        (recipe.parent / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 3)
        train(recipe)


def test_examples_that_do_not_fit_are_left_out_and_told(recipe, capfd):
    rows = (recipe.parent / "rows.jsonl").read_text()
    long = json.dumps({"prompt": "Say much.", "completion": "a" * 2000})
    (recipe.parent / "rows.jsonl").write_text(rows + long + "\n")
    (recipe.parent / "held.jsonl").write_text('{"prompt": "Say it."}\n')
    from rft.stages import run_recipe

    loaded = load_recipe(recipe, ["data.eval=held.jsonl", "train.steps=1"])
    run_recipe(loaded, view=View(1, plain=True))
    assert "training: 1 of 25 examples have more than 1024 tokens and are left out" in capfd.readouterr().out
