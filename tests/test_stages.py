"""A chain on the tiny model with the real engine: each stage goes on from the one before, stopped or not."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rft.cli import main
from rft.errors import RunError, UserError
from rft.recipe.load import load_recipe
from rft.runs.folder import RunFolder, list_runs, whole_of
from rft.runs.report import describe_run
from rft.runs.summary import Summary
from rft.runs.view import View

pytestmark = pytest.mark.engine

RECIPE = """\
name: chain
seed: 3
model: {source: packaged:tiny, dtype: float32}
data: {train: tasks.jsonl, eval: held.jsonl}
evaluator: {use: ./grader.py:like_hello, require_check: none}
rollout: {group_size: 4, max_new_tokens: 8}
train: {steps: 2, prompts_per_step: 2, learning_rate: 3e-3, checkpoint: {every: 1}}
eval: {tasks: 4, every: 0}
stages:
  - {algorithm: sft, data: {train: demos.jsonl}, train: {steps: 3}}
  - grpo
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
    for name, asked in (("tasks", "Tell me"), ("held", "Please tell"), ("demos", "Say")):
        rows = [{"prompt": f"{asked} {number}.", "completion": "hello"} for number in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "chain.yaml"
    path.write_text(RECIPE)
    return path


def run_chain(recipe: Path, *overrides: str, resume: RunFolder | None = None) -> Summary:
    from rft.stages import run_recipe

    loaded = load_recipe(resume.recipe_path if resume else recipe, list(overrides))
    return run_recipe(loaded, view=View(loaded.train.steps, quiet=True), resume=resume)


def stage_runs(whole: RunFolder) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(whole.stages_path.glob("*/*/recipe.yaml"))]


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / name)


def test_each_stage_starts_from_the_last_checkpoint_of_the_one_before(recipe, capfd):
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe), "--json"])
    assert ended.value.code == 0
    told = json.loads(capfd.readouterr().out)
    assert told["steps"] == 5 and [stage["steps"] for stage in told["stages"]] == [3, 2]
    assert told["heldout_before"] == told["stages"][0]["heldout_before"]
    assert told["heldout_after"] == told["stages"][1]["heldout_after"]
    # Nothing lies between them but a checkpoint, so the same greedy answers come from both ends of it.
    assert told["stages"][1]["heldout_before"] == told["stages"][0]["heldout_after"]

    whole = RunFolder.open("chain")
    sft, grpo = stage_runs(whole)
    assert load_recipe(grpo.recipe_path).model.source == str(sft.checkpoints_path.resolve() / "step-000003")
    assert (whole.status.state, whole.status.step, whole.status.steps) == ("finished", 5, 5)
    assert weights(whole.checkpoints_path / "step-000002").keys()  # those of the last stage
    assert [run.path.resolve() for run in list_runs()] == [whole.path.resolve()]
    assert "| stage 2 |" in whole.report_path.read_text()


def test_a_stopped_chain_goes_on_with_its_stage_and_then_the_rest(recipe, monkeypatch):
    import rft.offline

    step_metrics = rft.offline.step_metrics

    def interrupting(*arguments: Any) -> Any:
        metrics = step_metrics(*arguments)
        if metrics["weight_version"] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return metrics

    monkeypatch.setattr(rft.offline, "step_metrics", interrupting)
    summary = run_chain(recipe)
    whole = RunFolder.open(summary.run)
    (stopped,) = stage_runs(whole)
    assert (summary.steps, whole.status.state) == (1, "stopped")
    assert whole_of(stopped).path == whole.path.resolve()  # so either folder may be named to go on

    again = run_chain(recipe, resume=whole)
    assert again.steps == 5 and [stage.steps for stage in again.stages] == [3, 2]
    assert len(stage_runs(whole)) == 2  # the stopped one went on in its own folder


def test_an_adapter_is_handed_on(recipe):
    summary = run_chain(recipe, "model.adapter.rank=4", "stages=[sft, dpo]", "data.train=pairs.jsonl")
    sft, dpo = (RunFolder(Path(stage.run)) for stage in summary.stages)
    start = load_recipe(dpo.recipe_path).model.adapter.start
    assert start == str(sft.checkpoints_path.resolve() / "step-000002")
    # The reference is the adapter that the stage began with, so the margin starts at nothing.
    first, second = (step["examples/margin"] for step in dpo.metrics())
    assert first == pytest.approx(0.0, abs=1e-5) and second > 0.0


def test_the_reference_of_an_adapter_that_was_handed_on_is_that_adapter(recipe):
    summary = run_chain(
        recipe, "model.adapter.rank=4", "stages.1.algorithm.beta=0.1", "train.learning_rate=0.02"
    )
    sft, grpo = (RunFolder(Path(stage.run)) for stage in summary.stages)
    began = weights(sft.checkpoints_path / "step-000003", "adapter_model.safetensors")
    assert max(one.abs().max() for name, one in began.items() if "lora_B" in name) > 0.01  # not the base's
    first, second = (step["kl/reference"] for step in grpo.metrics())
    assert first == pytest.approx(0.0, abs=1e-6) and second > 1e-6


def test_a_finished_chain_is_shown_with_its_stages_and_only_grows_longer(recipe, capsys):
    whole = RunFolder.open(run_chain(recipe).run)
    found = describe_run(whole)
    assert [(Path(one["run"]).parent.name, one["step"]) for one in found["stages"]] == [
        ("1-sft", 3),
        ("2-grpo", 2),
    ]
    assert found["reward"] == found["stages"][1]["reward"] is not None
    assert found["heldout"] == found["stages"][1]["heldout"] is not None
    with pytest.raises(SystemExit):
        main(["runs", "show", "chain"])
    shown = capsys.readouterr().out
    assert "stage 1-sft" in shown and "finished, 3 of 3 steps" in shown
    with pytest.raises(SystemExit):
        main(["runs", "metrics", "chain", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert "reward/mean" in {metric["key"] for metric in told["metrics"]}

    with pytest.raises(RunError, match="cannot change: train.learning_rate"):
        run_chain(recipe, "train.learning_rate=0.5", resume=whole)
    again = run_chain(recipe, "train.steps=4", resume=whole)  # of the second stage: the first has its own
    assert [stage.steps for stage in again.stages] == [3, 4]


@pytest.fixture(autouse=True)
def pairs(recipe: Path) -> None:
    rows = [
        {"prompt": f"Say {n}.", "completion": "hello", "chosen": "hello", "rejected": "bye"}
        for n in range(12)
    ]
    (recipe.parent / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_fork_of_one_run_does_not_become_a_chain(recipe):
    from rft.stages import run_recipe

    loaded = load_recipe(recipe)
    with pytest.raises(UserError, match="without stages"):
        run_recipe(loaded, view=View(1, quiet=True), fork=object())
