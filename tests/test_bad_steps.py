"""NaN and infinity in an update: nothing moves, the batch is kept whole, and the run stops after a few."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM

from rft.bad_steps import KEPT, after_update, load_failed
from rft.errors import RunError, RunStopped
from rft.learn.batch import Batch, to_batch
from rft.learn.credit import assign_credit
from rft.learn.critic import Critic, build_critic
from rft.learn.probe import Abilities
from rft.learn.update import Updater, UpdateStats, build_optimizer
from rft.recipe.schema import AlgorithmSpec, TrainSpec
from rft.runs.folder import RunFolder
from rft.types import Group, Rollout, Score, Task, Turn

TRAIN = TrainSpec(learning_rate=0.01, max_bad_steps=2)
BAD = UpdateStats(steps_skipped=1, loss=float("nan"), grad_norm=float("nan"))
GOOD = UpdateStats(steps=1, loss=0.1, grad_norm=1.0)


def updater(model: LlamaForCausalLM, **algorithm) -> Updater:
    spec = AlgorithmSpec(**algorithm)
    return Updater(
        model,
        build_optimizer(model, spec, TRAIN),
        spec,
        TRAIN,
        temperature=1.0,
        max_completion_tokens=16,
        abilities=Abilities("shared", True, ()),
        critic=build_critic(model, spec, TRAIN),
    )


def batch_for(update: Updater, algorithm: AlgorithmSpec | None = None) -> Batch:
    task = Task("t", "?")
    turns = [Turn((1, 2, 3), (4 + n, 5, 6), (-5.0, -5.5, -6.0), "stop") for n in range(3)]
    rollouts = [Rollout(f"t/{n}", "t", task, (), (turn,), "eos") for n, turn in enumerate(turns)]
    group = Group("t", task, rollouts, [Score(0.0), Score(0.5), Score(1.0)])
    batch = update.measure(to_batch([group], mask_truncated=False, min_valid=0.75))
    return assign_credit(batch, algorithm or AlgorithmSpec())


def everything(learner: Updater | Critic, model: torch.nn.Module) -> list[torch.Tensor]:
    moments = learner.optimizer.state_dict()["adamw"]["state"]
    found = [value for one in moments.values() for value in one.values() if isinstance(value, torch.Tensor)]
    return [tensor.clone() for tensor in [*model.parameters(), *found]]


def infinite_advantage(batch: Batch, model: LlamaForCausalLM) -> Batch:
    advantages_N = batch.advantages_N.clone()
    advantages_N[4] = float("inf")
    return replace(batch, advantages_N=advantages_N)


def parameter_not_a_number(batch: Batch, model: LlamaForCausalLM) -> Batch:
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    return batch


def overflowing_loss(batch: Batch, model: LlamaForCausalLM) -> Batch:
    # exp(policy - old) is infinite, and where the advantage is negative no clip holds it
    return replace(batch, old_logprobs_N=torch.full_like(batch.sampler_logprobs_N, -500.0))


@pytest.mark.parametrize("spoil", [infinite_advantage, parameter_not_a_number, overflowing_loss])
def test_a_bad_number_moves_neither_weights_nor_moments(tiny_model, spoil):
    update = updater(tiny_model, num_iterations=2, mismatch={"mode": "off"})
    batch = batch_for(update)
    assert update.update(batch).steps == 2  # so that there are moments
    spoiled = spoil(batch, tiny_model)
    before = everything(update, tiny_model)
    stats = update.update(spoiled)
    assert (stats.steps, stats.steps_skipped) == (0, 2)
    after = everything(update, tiny_model)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=0.0, atol=0.0, equal_nan=True)


def test_a_loss_that_is_not_finite_is_not_applied_though_its_gradient_is(tiny_model):
    update = updater(tiny_model)
    before = everything(update, tiny_model)
    for parameter in tiny_model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert not update.optimizer.step(loss=float("inf")).applied
    assert all(map(torch.equal, before, everything(update, tiny_model)))
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


@pytest.mark.parametrize("kind", ["head", "model"])
def test_a_critic_holds_still_too(tiny_model, kind):
    algorithm = AlgorithmSpec(kind="ppo", critic={"kind": kind})
    update = updater(tiny_model, kind="ppo", critic={"kind": kind})
    critic = update.critic
    batch = batch_for(update, algorithm)
    assert update.update(batch).steps == 1
    before = everything(critic, critic)
    stats = update.update(infinite_advantage(batch, tiny_model))
    assert (stats.steps, stats.steps_skipped) == (0, 1)
    assert all(map(torch.equal, before, everything(critic, critic)))
    assert update.update(batch).steps == 1
    assert not torch.equal(critic.head.weight, before[0])


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "bad", "name: bad\n")


@pytest.fixture
def told() -> list[str]:
    return []


def look(run: RunFolder, told: list[str], step: int, batch: Batch, stats: UpdateStats, model) -> str | None:
    parts = SimpleNamespace(recipe=SimpleNamespace(train=TRAIN), policy=SimpleNamespace(model=model))
    said = after_update(parts, run, SimpleNamespace(note=told.append), step, batch, stats)
    run.record(step, {"update/skipped": float(stats.steps_skipped)})
    return said


def test_the_batch_is_kept_as_it_was_and_fails_again(tiny_model, run, told):
    update = updater(tiny_model)
    spoiled = infinite_advantage(batch_for(update), tiny_model)
    stats = update.update(spoiled)
    assert look(run, told, 7, spoiled, stats, tiny_model) is None
    failed = load_failed(run.path / "failed" / "step-000007.pt")
    assert (failed.step, failed.weight_version) == (7, 6)
    assert failed.suspects == {"t/1": ["advantages_N"]}
    assert failed.batch.sequences == spoiled.sequences and failed.batch.stats == spoiled.stats
    for name in ("target_ids_N", "sampler_logprobs_N", "advantages_N", "rewards_S", "trains_S", "turn_N"):
        assert torch.equal(getattr(failed.batch, name), getattr(spoiled, name))
    assert update.update(failed.batch).steps_skipped == 1
    assert told == [
        f"step 7: the loss was not finite, so that update was not applied; its batch is kept in "
        f"{run.path / 'failed' / 'step-000007.pt'}"
    ]
    assert run.events()[-1]["kind"] == "bad_update"


def test_sound_numbers_that_overflow_in_the_loss_name_no_suspect(tiny_model, run, told):
    update = updater(tiny_model, num_iterations=2, mismatch={"mode": "off"})
    spoiled = overflowing_loss(batch_for(update), tiny_model)
    look(run, told, 1, spoiled, update.update(spoiled), tiny_model)
    assert load_failed(run.path / "failed" / "step-000001.pt").suspects == {}


def test_the_run_stops_after_so_many_in_a_row_and_a_good_one_between_starts_anew(tiny_model, run, told):
    batch = batch_for(updater(tiny_model))
    assert look(run, told, 1, batch, BAD, tiny_model) is None
    assert look(run, told, 2, batch, GOOD, tiny_model) is None
    assert look(run, told, 3, batch, BAD, tiny_model) is None
    said = look(RunFolder(run.path), told, 4, batch, BAD, tiny_model)  # opened anew, as by a resumed run
    assert said is not None and said.startswith(
        "2 updates in a row had a loss or gradient that was not finite"
    )
    assert "train.max_bad_steps" in said and "train.learning_rate" in said
    assert len(told) == 3


def test_weights_that_are_not_finite_are_not_worth_a_checkpoint(tiny_model, run, told):
    batch = batch_for(updater(tiny_model))
    broken = copy.deepcopy(tiny_model)
    parameter_not_a_number(batch, broken)
    with pytest.raises(
        RunStopped, match=r"hold NaN or infinity after step 2 \(model\.layers\.0\.mlp\.up_proj"
    ):
        look(run, told, 3, batch, BAD, broken)


def test_only_the_newest_batches_are_kept(tiny_model, run, told):
    batch = batch_for(updater(tiny_model))
    for step in range(1, KEPT + 3):
        look(run, told, step, batch, BAD, tiny_model)
    kept = sorted(path.stem for path in (run.path / "failed").iterdir())
    assert kept == [f"step-{step:06d}" for step in range(3, KEPT + 3)]


def test_a_file_that_is_no_batch_says_so(tmp_path):
    (tmp_path / "step-000001.pt").write_bytes(b"PK nothing")
    with pytest.raises(RunError, match="no batch of a failed update"):
        load_failed(tmp_path / "step-000001.pt")
