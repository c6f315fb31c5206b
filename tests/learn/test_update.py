"""The gradient of a batch is one thing, however it is cut, ordered, shared or padded with masked members."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_cases import (
    GradientKeeper,
    assert_same_gradient,
    gradient_of,
    group,
    random_groups,
    rollout,
    tiny_llama,
)
from peft import LoraConfig, get_peft_model

from rft.learn.batch import to_batch
from rft.learn.credit import assign_credit
from rft.learn.probe import Abilities
from rft.learn.update import Updater, build_optimizer
from rft.recipe.schema import AlgorithmSpec, MismatchSpec, TrainSpec
from rft.types import Group, Score

LOSS_TYPES = ["grpo", "dr_grpo", "dapo", "bnpo"]
# Made-up sampler log-probabilities are far from the tiny model's: a cap keeps the gradients of one size.
CAPPED = MismatchSpec(mode="truncate", level="token", clip_max=2.0)
MODEL = tiny_llama()


def _algorithm(**changes) -> AlgorithmSpec:
    return AlgorithmSpec(**{"mismatch": CAPPED, **changes})


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    budget=st.integers(1, 80),
    packing=st.sampled_from(["shared", "packed", "single"]),
    loss_type=st.sampled_from(LOSS_TYPES),
    level=st.sampled_from(["token", "sequence"]),
    shuffle=st.randoms(use_true_random=False),
)
def test_cut_order_and_sharing_do_not_change_the_gradient(seed, budget, packing, loss_type, level, shuffle):
    groups = random_groups(seed, multi_turn=True)
    algorithm = _algorithm(
        loss_type=loss_type, mismatch=MismatchSpec(mode="truncate", level=level, clip_max=2.0)
    )
    _, expected = gradient_of(MODEL, groups, algorithm, packing="single")
    shuffled = []
    for one in shuffle.sample(groups, len(groups)):
        members = shuffle.sample(range(len(one.rollouts)), len(one.rollouts))
        shuffled.append(
            Group(one.id, one.task, [one.rollouts[i] for i in members], [one.scores[i] for i in members])
        )
    _, ours = gradient_of(MODEL, shuffled, algorithm, packing=packing, micro_batch_tokens=budget)
    assert_same_gradient(ours, expected)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("beta", [0.0, 0.2])
@pytest.mark.parametrize("scale", ["group", "batch"])
def test_masked_members_leave_no_trace(loss_type, beta, scale):
    groups = random_groups(1)
    algorithm = _algorithm(loss_type=loss_type, beta=beta, scale_rewards=scale)
    reference = tiny_llama(seed=5)
    stats, expected = gradient_of(MODEL, groups, algorithm, reference=reference)
    masked = []
    for one in groups:
        failed = rollout(f"{one.id}/failed", ([1, 2, 3], [4] * 30))
        cut = rollout(f"{one.id}/cut", (one.rollouts[0].turns[0].context_ids, [5] * 20), stop="length")
        masked.append(
            Group(
                one.id,
                one.task,
                [failed, *one.rollouts, cut],
                [Score.failed("timeout", "no answer"), *one.scores, Score(1.0)],
            )
        )
    masked.append(
        group("alone", [rollout("alone/0", ([1], [2])), rollout("alone/1", ([1], [3]))], [1.0, None])
    )
    again, ours = gradient_of(MODEL, masked, algorithm, reference=reference, mask_truncated=True)
    assert_same_gradient(ours, expected)
    assert again.metrics == pytest.approx(stats.metrics, rel=1e-4, abs=1e-6)


def test_groups_without_variance_are_skipped_without_changing_the_gradient():
    same = group("same", [rollout(f"same/{n}", ([7, 8], [n, 9])) for n in range(4)], [0.5] * 4)
    groups = [*random_groups(2), same]
    stats, ours = gradient_of(MODEL, groups, _algorithm())
    # A reference equal to nothing: beta so small that it adds no gradient, yet everything is computed.
    everything, expected = gradient_of(MODEL, groups, _algorithm(beta=1e-12), reference=MODEL)
    assert everything.row_tokens > stats.row_tokens
    assert_same_gradient(ours, expected)


def test_only_constant_groups_make_no_step():
    same = group("same", [rollout(f"same/{n}", ([7, 8], [n, 9])) for n in range(4)], [0.5] * 4)
    stats, gradient = gradient_of(MODEL, [same], _algorithm())
    assert gradient == {}
    assert (stats.steps, stats.micro_batches, stats.metrics) == (0, 0, {})
    assert (stats.loss, stats.grad_norm, stats.learning_rate, stats.backward_s) == (0.0, 0.0, 0.0, 0.0)


def test_minibatch_gradients_add_up_to_the_whole():
    groups = random_groups(3, groups=4)
    model = tiny_llama()
    whole_stats, whole = gradient_of(model, groups, _algorithm())
    keeper = GradientKeeper(model)
    updater = Updater(
        model,
        keeper,
        _algorithm(minibatches=2),
        TrainSpec(micro_batch_tokens=64, logit_chunk=7),
        temperature=1.0,
        max_completion_tokens=20,
        abilities=Abilities("shared", True),
    )
    batch = to_batch(groups, mask_truncated=False, min_valid=0.0)
    stats = updater.update(assign_credit(updater.measure(batch), AlgorithmSpec()))
    assert len(keeper.gradients) == 2
    assert stats.loss == pytest.approx(whole_stats.loss, rel=1e-5)
    # dapo divides each of two steps by half the batch's tokens, so their mean is the whole.
    mean = {name: (keeper.gradients[0][name] + keeper.gradients[1][name]) / 2 for name in whole}
    assert_same_gradient(mean, whole)


def _updater(model, algorithm: AlgorithmSpec, *, seed: int = 0, **train) -> Updater:
    spec = TrainSpec(**{"micro_batch_tokens": 64, "logit_chunk": 7, "learning_rate": 1e-2, **train})
    return Updater(
        model,
        build_optimizer(model, algorithm, spec),
        algorithm,
        spec,
        temperature=1.0,
        max_completion_tokens=20,
        abilities=Abilities("shared", True),
        seed=seed,
    )


def test_what_is_dropped_depends_on_seed_and_update_alone():
    # Sampling draws from torch's generator too, and a step ahead at any time.
    groups = random_groups(4)
    after = []
    for seed, draws in ((0, 0), (0, 7), (1, 0)):
        torch.manual_seed(0)
        model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.5))
        updater = _updater(model, _algorithm(), seed=seed)
        for _ in range(2):
            torch.rand(draws)
            batch = to_batch(groups, mask_truncated=False, min_valid=0.0)
            updater.update(assign_credit(updater.measure(batch), AlgorithmSpec()))
        after.append(torch.cat([one.detach().flatten() for one in model.parameters() if one.requires_grad]))
    assert torch.equal(after[0], after[1])
    assert not torch.equal(after[0], after[2])


def _own_samples(model, groups: list[Group]) -> list[Group]:
    """The groups as if this model had sampled them: its log-probabilities are the sampler's."""
    batch = to_batch(groups, mask_truncated=False, min_valid=0.0)
    reader = Updater(
        model,
        GradientKeeper(model),
        AlgorithmSpec(),
        TrainSpec(),
        temperature=1.0,
        max_completion_tokens=20,
        abilities=Abilities("shared", True),
    )
    logprobs = reader.logprobs(batch).tolist()
    out, start = [], 0
    for one in groups:
        rollouts = []
        for member in one.rollouts:
            (turn,) = member.turns
            sampled = tuple(logprobs[start : start + len(turn.token_ids)])
            start += len(sampled)
            rollouts.append(replace(member, turns=(replace(turn, logprobs=sampled),)))
        out.append(Group(one.id, one.task, rollouts, one.scores))
    return out


def test_on_policy_metrics_say_so():
    model = tiny_llama()
    groups = _own_samples(model, random_groups(4))
    batch = assign_credit(to_batch(groups, mask_truncated=False, min_valid=0.0), AlgorithmSpec())
    metrics = _updater(model, AlgorithmSpec()).update(batch).metrics
    assert metrics["ratio_mean"] == metrics["ratio_max"] == 1.0
    assert metrics["clip_low"] == metrics["clip_high"] == metrics["mismatch_clipped"] == 0.0
    assert metrics["ess"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["sampler_delta_max"] < 1e-4
    assert metrics["sampler_kl_k3"] == pytest.approx(0.0, abs=1e-6)
    assert 0 < metrics["entropy"] < 4.2, "at most log of the vocabulary"


@pytest.mark.parametrize(("changes", "passes"), [({}, 1), ({"num_iterations": 2}, 3)])
def test_only_a_policy_that_moves_within_the_update_is_measured_before_it(changes, passes):
    model = tiny_llama()
    calls: list[int] = []
    model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    algorithm = AlgorithmSpec(**changes)
    updater = _updater(model, algorithm)
    batch = updater.measure(to_batch(random_groups(5), mask_truncated=False, min_valid=0.0))
    updater.update(assign_credit(batch, algorithm))
    assert len(calls) == passes, "one row for each pass"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_make_rewarded_answers_likelier(dtype):
    model = tiny_llama(dtype=dtype)
    groups = _own_samples(model, random_groups(6))
    updater = _updater(model, AlgorithmSpec(mismatch=MismatchSpec(mode="truncate")))
    batch = assign_credit(to_batch(groups, mask_truncated=False, min_valid=0.0), AlgorithmSpec())
    before_N = updater.logprobs(batch)
    stats = updater.update(batch)
    gained_N = updater.logprobs(batch) - before_N
    assert stats.steps == 1
    assert gained_N[batch.advantages_N > 0.5].mean() > gained_N[batch.advantages_N < -0.5].mean() + 0.05


def test_later_passes_measure_their_ratio_against_the_policy_before_the_first():
    model = tiny_llama()
    groups = _own_samples(model, random_groups(4))
    batch = assign_credit(to_batch(groups, mask_truncated=False, min_valid=0.0), AlgorithmSpec())
    updater = _updater(model, AlgorithmSpec(num_iterations=3))
    stats = updater.update(updater.measure(batch))
    assert stats.steps == 3
    assert stats.metrics["ratio_max"] > 1.01
    assert stats.metrics["clip_high"] > 0.0
    assert stats.metrics["sampler_delta_max"] < 1e-4, "old is the policy before the update"


def test_the_reference_of_an_adapter_is_the_model_without_it():
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
    groups = random_groups(4)
    first, _ = gradient_of(model, groups, _algorithm(beta=0.1))
    assert first.metrics["ref_kl"] == pytest.approx(0.0, abs=1e-6), "a new adapter changes nothing"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    moved, gradient = gradient_of(model, groups, _algorithm(beta=0.1))
    assert moved.metrics["ref_kl"] > 0.01
    assert all("lora" in name for name in gradient)


def test_the_reference_follows_once_an_update():
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
    algorithm = _algorithm(beta=0.1, kl={"sync_every": 2, "sync_mix": 1.0})
    updater = _updater(model, algorithm)
    batch = to_batch(random_groups(4), mask_truncated=False, min_valid=0.0)
    for follows in (False, True):
        updater.update(assign_credit(updater.measure(batch), algorithm))
        reference_N, policy_N = updater.measure(batch).ref_logprobs_N, updater.logprobs(batch)
        assert torch.allclose(reference_N, policy_N, atol=1e-6) == follows


def test_a_state_without_a_reference_leaves_the_reference_where_the_run_starts():
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
    state = _updater(model, _algorithm()).state_dict()
    updater = _updater(model, _algorithm(beta=0.1))
    updater.load_state_dict(state)
    batch = updater.measure(to_batch(random_groups(4), mask_truncated=False, min_valid=0.0))
    torch.testing.assert_close(batch.ref_logprobs_N, updater.logprobs(batch))


def test_kl_needs_something_to_refer_to():
    with pytest.raises(ValueError, match="reference"):
        _updater(tiny_llama(), AlgorithmSpec(beta=0.1))


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_models_mode_as_it_was(training):
    model = tiny_llama().train(training)
    updater = _updater(model, _algorithm(num_iterations=2))
    updater.measure(to_batch(random_groups(4), mask_truncated=False, min_valid=0.0))
    assert model.training == training


def test_an_updates_parts_take_no_longer_than_the_whole():
    updater = _updater(tiny_llama(), _algorithm(num_iterations=2))
    batch = to_batch(random_groups(4), mask_truncated=False, min_valid=0.0)
    began = time.perf_counter()
    stats = updater.update(assign_credit(updater.measure(batch), AlgorithmSpec()))
    whole_s = time.perf_counter() - began
    parts_s = (stats.forward_s, stats.backward_s, stats.optimizer_s)
    assert min(parts_s) > 0
    assert sum(parts_s) <= whole_s


@pytest.mark.parametrize(("kind", "steps"), [("grpo", 5 * 2 * 3), ("ppo", (5 - 1) * 2 * 3)])
def test_a_schedule_is_laid_over_the_steps_in_which_the_policy_moves(kind, steps):
    algorithm = AlgorithmSpec(kind=kind, num_iterations=2, minibatches=3, critic={"warmup_steps": 1})
    train = TrainSpec(steps=5, learning_rate=1e-3, optimizer={"schedule": "linear"})
    optimizer = build_optimizer(tiny_llama(), algorithm, train)
    optimizer.steps = steps // 2
    assert optimizer.learning_rate == pytest.approx(5e-4)
    optimizer.steps = steps
    assert optimizer.learning_rate == pytest.approx(0.0, abs=1e-12)


def test_learning_rates_when_the_recipe_names_none():
    algorithm, train = AlgorithmSpec(num_iterations=2), TrainSpec()
    assert build_optimizer(tiny_llama(), algorithm, train).learning_rate == 1e-5
    adapter = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
    assert build_optimizer(adapter, algorithm, train).learning_rate == 1e-4
