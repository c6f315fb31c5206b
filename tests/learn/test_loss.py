"""The loss against TRL's GRPOTrainer and a slow second version. By hand: test_surrogates.py and others."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_cases import GradientKeeper, random_groups, tiny_llama
from trl_oracle import MAX_COMPLETION, trl_loss

from rft.learn.batch import Batch, to_batch
from rft.learn.credit import assign_credit
from rft.learn.loss import LossConfig, LossInputs, policy_loss
from rft.learn.normalise import token_weights
from rft.learn.probe import Abilities
from rft.learn.surrogates import LOSS_TYPES, clipped, loss_config, loss_type
from rft.learn.update import Updater
from rft.recipe.schema import AlgorithmSpec, EntropySpec, KLSpec, MismatchSpec, TrainSpec

CLIPPED = ["grpo", "dr_grpo", "dapo", "bnpo", "luspo"]
OFF = MismatchSpec(mode="off")
BETA = {"beta": 0.1}
VARIANTS = {
    "plain": {"mismatch": OFF},
    "truncate_token": {"mismatch": MismatchSpec(mode="truncate", level="token", clip_max=1.2)},
    "mask_token_kl": BETA | {"mismatch": MismatchSpec(mode="mask", level="token", clip_max=1.2)},
    "truncate_sequence_kl": BETA | {"mismatch": MismatchSpec(mode="truncate", clip_max=1.2)},
    "mask_sequence": {"mismatch": MismatchSpec(mode="mask", clip_max=1.2)},
    "icepop_token": {"mismatch": MismatchSpec(mode="icepop", level="token", clip_max=1.2, clip_min=0.8)},
    "corrected_kl": BETA | {"kl": KLSpec(corrected=True), "mismatch": OFF},
    "off_policy": {"mismatch": MismatchSpec(mode="off", off_policy_threshold=0.02)},
    "undecided": {"entropy": EntropySpec(top_quantile=0.4), "mismatch": OFF},
    "bonus": {"entropy": EntropySpec(coef=0.05), "mismatch": OFF},
    "undecided_bonus_kl": BETA | {"entropy": EntropySpec(coef=0.05, top_quantile=0.4), "mismatch": OFF},
}


def _measured(algorithm: AlgorithmSpec, temperature: float) -> tuple[Batch, Updater, GradientKeeper]:
    """A batch whose old policy and reference are a little away from the policy, the sampler near the old."""
    groups = random_groups(5, multi_turn=True)
    batch = to_batch(groups, mask_truncated=False, min_valid=1.0, keep_constant=algorithm.trains_constant)
    model = tiny_llama()
    keeper = GradientKeeper(model)
    updater = Updater(
        model,
        keeper,
        algorithm,
        TrainSpec(micro_batch_tokens=40, logit_chunk=16),
        temperature=temperature,
        max_completion_tokens=MAX_COMPLETION,
        abilities=Abilities("shared", chunked_head=True),
        reference=tiny_llama(seed=1),
    )
    batch = updater.measure(batch)
    policy_N = updater.logprobs(batch)
    chance = torch.Generator().manual_seed(0)

    def near(logprobs_N: torch.Tensor, spread: float) -> torch.Tensor:
        return logprobs_N + spread * torch.randn(logprobs_N.shape, generator=chance)

    old_N = near(policy_N, 0.3)
    sampler_N = near(old_N, 0.2)
    sampler_N[3] = math.nan
    batch = replace(
        batch,
        old_logprobs_N=old_N,
        sampler_logprobs_N=sampler_N,
        ref_logprobs_N=near(policy_N, 0.3) if algorithm.beta else None,
    )
    return assign_credit(batch, AlgorithmSpec()), updater, keeper


def _assert_as_trl(algorithm: AlgorithmSpec) -> dict[str, list[float]]:
    batch, updater, keeper = _measured(algorithm, temperature=0.7)
    stats = updater.update(batch)
    assert stats.micro_batches > 1

    model = tiny_llama()
    theirs, trainer = trl_loss(model, batch, algorithm, temperature=0.7)
    theirs.backward()
    assert stats.loss == pytest.approx(theirs.item(), rel=1e-5, abs=1e-6)
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max().item()
        assert scale > 1e-4
        torch.testing.assert_close(keeper.gradients[0][name], parameter.grad, rtol=1e-5, atol=1e-5 * scale)
    return trainer._metrics["train"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kind", LOSS_TYPES)
def test_trl_agrees_on_loss_and_gradient(kind, level, variant):
    epsilon_high = 1.3 if kind == "cispo" else 0.28
    algorithm = AlgorithmSpec(
        loss_type=kind, importance_level=level, epsilon_high=epsilon_high, **VARIANTS[variant]
    )
    metrics = _assert_as_trl(algorithm)
    if level == "token" and kind in CLIPPED:
        assert 0 < metrics["clip_ratio/region_mean"][0] < 1, "the case must have clipped tokens"


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kind", CLIPPED)
def test_trl_agrees_on_two_sided_clipping(kind, level):
    _assert_as_trl(AlgorithmSpec(loss_type=kind, importance_level=level, delta=1.1, mismatch=OFF))


@pytest.mark.parametrize(
    ("kind", "constants"),
    [
        ("sapo", {"temperature_pos": 2.0, "temperature_neg": 3.0}),
        ("vespo", {"k_pos": 1.5, "lambda_pos": 2.5, "k_neg": 2.0, "lambda_neg": 3.0}),
    ],
)
def test_trl_agrees_on_constants(kind, constants):
    _assert_as_trl(AlgorithmSpec(loss_type=kind, loss_args=constants, mismatch=OFF))


def test_trl_agrees_on_the_next_entropy_coefficient():
    for target in (0.1, 10.0):
        algorithm = AlgorithmSpec(entropy=EntropySpec(coef=0.05, target=target), mismatch=OFF)
        batch, updater, _ = _measured(algorithm, temperature=1.0)
        updater.update(batch)
        _, trainer = trl_loss(tiny_llama(), batch, algorithm, temperature=1.0)
        assert updater.entropy_bonus.coef == pytest.approx(trainer.entropy_coef)
        assert updater.entropy_bonus.state()["last"] == pytest.approx(trainer._last_world_entropy, rel=1e-5)


def _slow_loss(rows, sequences, algorithm: AlgorithmSpec) -> float:
    """The same definitions, one token at a time, in Python floats."""
    policy, old, sampler, ref, advantages = rows
    mismatch, kl = algorithm.mismatch, algorithm.kl
    total = 0.0
    count = len(set(sequences))
    for n, sequence in enumerate(sequences):
        mates = [m for m, other in enumerate(sequences) if other == sequence]
        size = len(mates)

        logs = {"token": old[n] - sampler[n], "sequence": sum(old[m] - sampler[m] for m in mates)}
        logs["geometric"] = logs["sequence"] / size
        weight = math.exp(logs[mismatch.level])
        if mismatch.mode == "off":
            weight = 1.0
        elif mismatch.mode == "truncate":
            weight = min(weight, mismatch.clip_max)
        elif weight > mismatch.clip_max or (mismatch.mode == "icepop" and weight < mismatch.clip_min):
            weight = 0.0

        ratios = {"token": policy[n] - old[n], "sequence": sum(policy[m] - old[m] for m in mates) / size}
        ratio = math.exp(ratios[algorithm.importance_level])
        bounded = min(max(ratio, 1 - algorithm.epsilon), 1 + algorithm.epsilon_high)
        first = ratio if algorithm.delta is None else min(ratio, algorithm.delta)
        gain = min(first * advantages[n], bounded * advantages[n])
        if algorithm.dual_clip is not None and advantages[n] < 0:
            gain = max(gain, algorithm.dual_clip * advantages[n])
        loss = -weight * gain
        distance = sum(sampler[m] - policy[m] for m in mates) / size
        if mismatch.off_policy_threshold is not None:
            loss *= advantages[n] >= 0 or distance <= mismatch.off_policy_threshold

        apart = policy[n] - ref[n]
        estimate = {"k1": apart, "k2": apart**2 / 2, "k3": math.exp(-apart) - 1 + apart}[kl.estimator]
        loss += algorithm.beta * estimate * (ratio if kl.corrected else 1.0)
        divisor = {
            "grpo": count * size,
            "dr_grpo": count * MAX_COMPLETION,
            "dapo": len(sequences),
            "bnpo": len(sequences),
            "luspo": count,
        }
        total += loss / divisor[algorithm.loss_type]
    return total


@given(
    rows=st.lists(st.tuples(*[st.floats(-3, -0.1)] * 4, st.floats(-2, 2)), min_size=1, max_size=9),
    cuts=st.integers(0, 255),
    loss_type_=st.sampled_from(CLIPPED),
    importance_level=st.sampled_from(["token", "sequence"]),
    # 2.9 and the like are no ratios that these floats reach exactly: both versions fall on the same side.
    mismatch=st.builds(
        MismatchSpec,
        mode=st.sampled_from(["off", "truncate", "mask", "icepop"]),
        level=st.sampled_from(["token", "sequence", "geometric"]),
        clip_max=st.just(2.9),
        clip_min=st.just(0.37),
        off_policy_threshold=st.sampled_from([None, 0.2173]),
    ),
    bounds=st.sampled_from([{}, {"delta": 1.77}, {"dual_clip": 2.13}]),
    beta=st.sampled_from([0.0, 0.3]),
    kl=st.builds(KLSpec, estimator=st.sampled_from(["k1", "k2", "k3"]), corrected=st.booleans()),
)
def test_the_slow_version_agrees(rows, cuts, loss_type_, importance_level, mismatch, bounds, beta, kl):
    columns = list(zip(*rows, strict=True))
    sequences = [bin(cuts & ((1 << n) - 1)).count("1") for n in range(len(rows))]
    algorithm = AlgorithmSpec(
        loss_type=loss_type_,
        importance_level=importance_level,
        mismatch=mismatch,
        epsilon_high=0.28,
        beta=beta,
        kl=kl,
        **bounds,
    )
    sequence_N = torch.tensor(sequences)
    policy_N, old_N, sampler_N, ref_N, advantages_N = (
        torch.tensor(one, dtype=torch.float64) for one in columns
    )
    kind = loss_type(algorithm)
    weights_N = token_weights(
        kind.normaliser,
        sequence_N,
        batch_sequences=len(set(sequences)),
        batch_tokens=len(rows),
        max_completion_tokens=MAX_COMPLETION,
    )
    inputs = LossInputs(
        policy_N, old_N, sampler_N, advantages_N, sequence_N, torch.zeros_like(old_N), ref_N if beta else None
    )
    ours = policy_loss(inputs, weights_N.double(), loss_config(algorithm, kind))
    slow = _slow_loss(columns, sequences, algorithm)
    # Weights are float32 by contract.
    assert ours.item() == pytest.approx(slow, rel=1e-6, abs=1e-6)


def test_kl_without_a_reference_is_an_error():
    one = torch.tensor([-1.0])
    inputs = LossInputs(one, one, one, one, torch.tensor([0]), one)
    with pytest.raises(ValueError, match="reference"):
        policy_loss(inputs, one, LossConfig(surrogate=clipped, beta=0.1))
