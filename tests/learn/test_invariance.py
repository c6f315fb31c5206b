"""Whatever the loss: the gradient does not depend on how a batch is cut, ordered, packed or padded.

The policy has moved since it was measured and the sampler is a little away from it, so that ratios, clipping
and corrections are all at work. What stands in for the past depends on the token, never on its place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_cases import GradientKeeper, assert_same_gradient, group, random_groups, rollout, tiny_llama

from rft.learn.batch import Batch, to_batch
from rft.learn.credit import assign_credit
from rft.learn.packing import Packing
from rft.learn.probe import Abilities
from rft.learn.surrogates import LOSS_TYPES
from rft.learn.update import Updater
from rft.recipe.schema import AlgorithmSpec, EntropySpec, KLSpec, MismatchSpec, TrainSpec
from rft.types import Group, Score

MODEL, REFERENCE = tiny_llama(), tiny_llama(seed=5)
MISMATCHES = [
    MismatchSpec(mode=mode, level=level, clip_max=1.5, clip_min=0.6, off_policy_threshold=threshold)
    for mode in ("off", "truncate", "mask", "icepop")
    for level in ("token", "sequence", "geometric")
    for threshold in (None, 0.02)
]
KLS = [
    KLSpec(estimator=name, corrected=corrected) for name in ("k1", "k2", "k3") for corrected in (True, False)
]
ENTROPIES = [
    EntropySpec(),
    EntropySpec(coef=0.05),
    EntropySpec(top_quantile=0.4),
    EntropySpec(coef=0.05, top_quantile=0.4),
]


def _past(batch: Batch, logprobs_N: torch.Tensor, what: str, spread: float) -> torch.Tensor:
    """Log-probabilities a little away from the given ones; how far is the rollout's own."""
    away = []
    for one in batch.sequences:
        chance = random.Random(f"{one.rollout_id}/{what}")
        away += [chance.gauss(0.0, spread) for _ in one.policy_positions]
    return logprobs_N + torch.tensor(away)


def _gradient(
    groups: Sequence[Group],
    algorithm: AlgorithmSpec,
    *,
    packing: Packing = "single",
    micro_batch_tokens: int = 64,
    mask_truncated: bool = False,
) -> dict[str, torch.Tensor]:
    keeper = GradientKeeper(MODEL)
    updater = Updater(
        MODEL,
        keeper,
        algorithm,
        TrainSpec(micro_batch_tokens=micro_batch_tokens, logit_chunk=7),
        temperature=0.8,
        max_completion_tokens=20,
        abilities=Abilities(packing, chunked_head=True),
        reference=REFERENCE,
    )
    batch = to_batch(
        groups, mask_truncated=mask_truncated, min_valid=0.0, keep_constant=algorithm.trains_constant
    )
    batch = updater.measure(batch)
    old_N = _past(batch, updater.logprobs(batch), "old", 0.2)
    batch = replace(batch, old_logprobs_N=old_N, sampler_logprobs_N=_past(batch, old_N, "sampler", 0.1))
    updater.update(assign_credit(batch, algorithm))
    return keeper.gradients[0]


def _shuffled(groups: Sequence[Group], shuffle: random.Random) -> list[Group]:
    out = []
    for one in shuffle.sample(list(groups), len(groups)):
        order = shuffle.sample(range(len(one.rollouts)), len(one.rollouts))
        out.append(Group(one.id, one.task, [one.rollouts[i] for i in order], [one.scores[i] for i in order]))
    return out


def _with_masked_members(groups: Sequence[Group]) -> list[Group]:
    """The same groups with members whose evaluation failed or that were cut off, and a group without any."""
    out = []
    for one in groups:
        failed = rollout(f"{one.id}/failed", ([1, 2, 3], [4] * 30))
        cut = rollout(f"{one.id}/cut", (one.rollouts[0].turns[0].context_ids, [5] * 20), stop="length")
        scores = [Score.failed("timeout", "no answer"), *one.scores, Score(1.0)]
        out.append(Group(one.id, one.task, [failed, *one.rollouts, cut], scores))
    alone = [rollout("alone/0", ([1], [2])), rollout("alone/1", ([1], [3]))]
    return [*out, group("alone", alone, [1.0, None])]


def _algorithms(loss_type: str) -> st.SearchStrategy[AlgorithmSpec]:
    return st.builds(
        AlgorithmSpec,
        loss_type=st.just(loss_type),
        importance_level=st.sampled_from(["token", "sequence"]),
        epsilon=st.just(0.1),
        epsilon_high=st.just(1.1 if loss_type == "cispo" else 0.15),
        delta=st.sampled_from([None, 1.3]),
        mismatch=st.sampled_from(MISMATCHES),
        beta=st.sampled_from([0.0, 0.1]),
        kl=st.sampled_from(KLS),
        entropy=st.sampled_from(ENTROPIES),
    )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@settings(max_examples=12)
@given(data=st.data())
def test_cut_order_and_prefix_sharing_do_not_change_the_gradient(loss_type, data):
    algorithm = data.draw(_algorithms(loss_type))
    groups = random_groups(data.draw(st.integers(0, 1000)), multi_turn=True)
    ours = _gradient(
        _shuffled(groups, data.draw(st.randoms(use_true_random=False))),
        algorithm,
        packing=data.draw(st.sampled_from(["shared", "packed", "single"])),
        micro_batch_tokens=data.draw(st.integers(1, 120)),
    )
    assert_same_gradient(ours, _gradient(groups, algorithm), tolerance=2e-5)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@settings(max_examples=6)
@given(data=st.data())
def test_masked_members_leave_no_trace(loss_type, data):
    algorithm = data.draw(_algorithms(loss_type))
    groups = random_groups(data.draw(st.integers(0, 1000)))
    ours = _gradient(_with_masked_members(groups), algorithm, packing="shared", mask_truncated=True)
    assert_same_gradient(ours, _gradient(groups, algorithm, packing="shared"), tolerance=2e-5)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_groups_without_variance_count_the_same_computed_or_not(loss_type):
    # Their tokens belong to the normaliser either way; beta is too small to add a gradient.
    same = group("same", [rollout(f"same/{n}", ([7, 8], [n, 9])) for n in range(4)], [0.5] * 4)
    groups = [*random_groups(2), same]
    epsilon_high = 1.1 if loss_type == "cispo" else None
    skipped, computed = (
        AlgorithmSpec(loss_type=loss_type, epsilon_high=epsilon_high, beta=beta) for beta in (0.0, 1e-12)
    )
    assert_same_gradient(_gradient(groups, skipped), _gradient(groups, computed))
