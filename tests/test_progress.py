"""Going on: data and optimizer exactly where they were, from the newest checkpoint that can be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rft import evaluator
from rft.data.order import TaskOrder
from rft.errors import DataError, RunError
from rft.learn.packing import Packing
from rft.learn.probe import Abilities
from rft.learn.update import Updater, build_optimizer
from rft.models.policy import Policy
from rft.progress import Progress
from rft.recipe.schema import Recipe
from rft.runs.folder import RunFolder
from rft.types import Task

TASKS = [Task(f"t{number}", str(number)) for number in range(5)]
PACKING: Packing = "single"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "sort", "")


def recipe(**sections: Any) -> Recipe:
    needed = {"model": {"source": "packaged:tiny"}, "data": {"train": "t.jsonl"}, "evaluator": "exact"}
    return Recipe.model_validate(needed | sections)


def parts(folder: Path, spec: Recipe, dtype: str = "float32") -> tuple[TaskOrder, Policy, Updater]:
    policy = Policy.load(spec.model, folder, dtype=dtype)
    optimizer = build_optimizer(policy.model, spec.algorithm, spec.train)
    updater = Updater(
        policy.model,
        optimizer,
        spec.algorithm,
        spec.train,
        temperature=1.0,
        max_completion_tokens=8,
        abilities=Abilities(PACKING, True),
    )
    return TaskOrder(TASKS, seed=0), policy, updater


def step(policy: Policy, updater: Updater) -> None:
    ids = torch.arange(3, 23)[None]
    policy.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    updater.optimizer.step()


def save(run: RunFolder, folder: Path, steps: int, spec: Recipe) -> None:
    order, policy, updater = parts(folder, spec)
    progress = Progress()
    for _ in range(steps):
        order.take(2)
        step(policy, updater)
        progress.step += 1
        progress.save(run, order, updater, policy, spec)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_that_goes_on_does_what_it_would_have_done(run, tiny_model_dir, dtype):
    spec = recipe(train={"learning_rate": 1e-2, "optimizer": {"schedule": "linear"}, "steps": 9})
    order, policy, updater = parts(tiny_model_dir, spec, dtype)
    for _ in range(3):
        step(policy, updater)
    order.take(7)
    Progress(step=3).save(run, order, updater, policy, spec)

    again = Progress.newest(run, pytest.fail)
    assert again.step == 3 and again.checkpoint == run.checkpoints_path / "step-000003"
    order2, _, _ = parts(tiny_model_dir, spec, dtype)
    policy2 = Policy.load(spec.model, tiny_model_dir, dtype=dtype, weights_from=again.checkpoint)
    updater2 = Updater(
        policy2.model,
        build_optimizer(policy2.model, spec.algorithm, spec.train),
        spec.algorithm,
        spec.train,
        temperature=1.0,
        max_completion_tokens=8,
        abilities=Abilities(PACKING, True),
    )
    again.restore(order2, updater2)
    assert order2.take(8) == order.take(8)
    assert updater2.optimizer.steps == 3
    assert updater2.optimizer.learning_rate == updater.optimizer.learning_rate
    for _ in range(2):
        step(policy, updater)
        step(policy2, updater2)
    for one, other in zip(policy.trained_parameters(), policy2.trained_parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_fresh_run_has_nothing_to_restore(tiny_model_dir):
    order, _, updater = parts(tiny_model_dir, recipe())
    Progress().restore(order, updater)
    assert updater.optimizer.steps == 0 and order.state()["position"] == 0


def test_a_checkpoint_says_what_it_is(run, tiny_model_dir):
    save(run, tiny_model_dir, 1, recipe())
    about = json.loads((run.checkpoints_path / "step-000001" / "rft.json").read_text())
    assert about == {"step": 1, "weight_version": 1, "base": "packaged:tiny", "run": run.id}


def test_a_damaged_newest_checkpoint_is_passed_over_and_named(run, tiny_model_dir):
    save(run, tiny_model_dir, 2, recipe())
    weights = run.checkpoints_path / "step-000002" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    notes: list[str] = []
    assert Progress.newest(run, notes.append).step == 1
    assert len(notes) == 1 and notes[0].startswith("going on from step 1 instead: checkpoint ")
    assert "step-000002 is damaged: model.safetensors has changed content" in notes[0]


def test_without_a_checkpoint_to_trust_the_reasons_are_given(run, tiny_model_dir):
    with pytest.raises(RunError, match="has no checkpoint to go on from$"):
        Progress.newest(run, pytest.fail)
    save(run, tiny_model_dir, 1, recipe(train={"checkpoint": {"optimizer": False}}))
    with pytest.raises(RunError, match="saved without its optimizer .train.checkpoint.optimizer: false."):
        Progress.newest(run, pytest.fail)


def test_a_checkpoint_of_another_model_or_other_data_is_the_users_error(run, tiny_model_dir):
    save(run, tiny_model_dir, 1, recipe())
    progress = Progress.newest(run, pytest.fail)
    order, _, updater = parts(
        tiny_model_dir, recipe(model={"source": "packaged:tiny", "adapter": {"rank": 2}})
    )
    with pytest.raises(RunError, match="does not fit this recipe: the optimizer state is of another model"):
        progress.restore(order, updater)
    _, _, updater = parts(tiny_model_dir, recipe())
    with pytest.raises(DataError, match="tasks changed since it stopped"):
        progress.restore(TaskOrder(TASKS[:4], seed=0), updater)


def judge(source: str) -> Any:
    return evaluator(eval(source))


def test_a_run_remembers_its_evaluator_and_another_one_needs_consent(run, tiny_model_dir):
    spec = recipe(evaluator={"use": "exact", "require_check": "none"})
    first, other = judge("lambda text: 1.0"), judge("lambda text: 0.5")
    order, policy, updater = parts(tiny_model_dir, spec)
    progress = Progress(step=1)
    progress.admit(run, spec, first, accept_change=False, note=pytest.fail)
    progress.save(run, order, updater, policy, spec)

    Progress.newest(run, pytest.fail).admit(run, spec, first, accept_change=False, note=pytest.fail)
    with pytest.raises(
        RunError, match="not the one this run began with .* agree with --accept-evaluator-change"
    ):
        Progress.newest(run, pytest.fail).admit(run, spec, other, accept_change=False, note=pytest.fail)
    notes: list[str] = []
    again = Progress.newest(run, pytest.fail)
    again.admit(run, spec, other, accept_change=True, note=notes.append)
    assert again.evaluator == other.fingerprint()
    assert "as agreed; rewards before and after step 1 are not comparable" in notes[0]


def test_a_recipe_that_asks_for_a_passing_check_gets_no_evaluator_without_one(run):
    strict = recipe(evaluator={"use": "exact", "require_check": "pass"})
    with pytest.raises(RunError, match="has not been checked as it is now"):
        Progress().admit(run, strict, judge("lambda text: 0.25"), accept_change=False, note=pytest.fail)
