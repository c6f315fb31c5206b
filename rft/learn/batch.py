"""Groups of scored rollouts become one batch of tokens. The only place that decides who is trained on.

Masked means gone. A member whose evaluation gave no number, or that was truncated while truncated
rollouts are masked, is left out here, so nothing downstream (mean, std, loss, KL, entropy, any
normaliser) can see it. A group needs `max(2, ceil(min_valid * G))` scored members and at least two
that are left, or the whole group is dropped; one is enough where a critic says what was to be expected.

A group whose rewards are all equal has no group-relative advantage and so no policy gradient. It stays in
the batch, because its tokens and rewards belong to the normalisers and to the batch-wide standard
deviation, but it is not computed unless something else needs it (`keep_constant`: a critic, a KL term):
skipping it saves time and does not change the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rft.types import Group, Rollout, Score


class TokenSequence(NamedTuple):
    """One rollout as the policy saw it: every turn's context and sampled tokens, in order.

    >>> TokenSequence("t/0", 0, (1, 5, 9, 7, 2), prompt_length=3, policy_positions=(3, 4), start=0).length
    5
    """

    rollout_id: str
    group: int
    """Index of its group among the batch's groups."""
    token_ids: tuple[int, ...]
    prompt_length: int
    """Tokens of the first turn's context: what a group's members share."""
    policy_positions: tuple[int, ...]
    """Positions in `token_ids` that the policy sampled: the only ones trained on."""
    start: int
    """Where its policy tokens begin on the batch's token axis N."""

    @property
    def length(self) -> int:
        """Tokens, context included."""
        return len(self.token_ids)


class BatchStats(NamedTuple):
    """What became of the groups. Rewards are over every scored member, trained on or not."""

    groups_used: int
    groups_constant: int
    """Groups without reward variance."""
    groups_too_few: int
    """Groups dropped because too few members were left."""
    rollouts: int
    rollouts_unscored: int
    rollouts_truncated: int
    policy_tokens: int
    reward_mean: float
    """NaN when nothing was scored."""
    reward_std: float
    """Population standard deviation over scored members; NaN when nothing was scored."""


@dataclass(frozen=True)
class Batch:
    """Everything an update reads. Axes: S sequences, N policy tokens of all sequences, one after the other,
    K parts of a composed score.

    Two sequences of three and one sampled tokens: `sequence_N` is `[0, 0, 0, 1]`, `target_ids_N` the
    four sampled ids, `advantages_N` one advantage for each, zero until credit is assigned.
    """

    sequences: tuple[TokenSequence, ...]
    target_ids_N: Tensor
    sequence_N: Tensor
    sampler_logprobs_N: Tensor
    advantages_N: Tensor
    rewards_S: Tensor
    group_S: Tensor
    trains_S: Tensor
    """True: computed in the update. False: counted in normalisers only."""
    stats: BatchStats
    turn_N: Tensor
    """Which turn of its sequence each token was sampled in, from 0."""
    turn_rewards: tuple[tuple[float, ...], ...]
    """For each sequence, what each of its turns earned; empty where nobody gave values for turns."""
    parts_SK: Tensor
    """What the score was made of, by part; NaN where a part has no number. K is 0 for plain evaluators."""
    part_names: tuple[str, ...]
    """K names, in the order of `parts_SK`."""
    old_logprobs_N: Tensor | None = None
    """The policy's before the update; None where the loss's own serve (one pass, one minibatch)."""
    entropy_N: Tensor | None = None
    """The policy's before the update, nats; None unless tokens are picked by it."""
    ref_logprobs_N: Tensor | None = None
    """The reference's; None without a KL term."""
    values_N: Tensor | None = None
    """What the critic expected before each token; None without a critic."""
    returns_N: Tensor | None = None
    """What the critic should have expected; set with the credit."""

    @property
    def num_tokens(self) -> int:
        """N, policy tokens."""
        return int(self.target_ids_N.numel())

    def minibatches(self, count: int) -> list[list[int]]:
        """Sequence indices of `count` optimizer steps: whole groups, dealt out so that each gets its share.

        Groups that train are dealt first, then those that only count; a minibatch may be empty when
        there are fewer groups than minibatches.
        """
        members: dict[int, list[int]] = {}
        for index, sequence in enumerate(self.sequences):
            members.setdefault(sequence.group, []).append(index)
        dealt = sorted(members.values(), key=lambda group: not bool(self.trains_S[group[0]]))
        return [[index for group in dealt[first::count] for index in group] for first in range(count)]


def to_batch(
    groups: Sequence[Group],
    *,
    mask_truncated: bool,
    min_valid: float,
    min_members: int = 2,
    keep_constant: bool = False,
) -> Batch:
    """Lays out groups for an update.

    Args:
        groups: scored groups, in any order; the gradient does not depend on it.
        mask_truncated: leave out rollouts that a limit ended.
        min_valid: a group needs `max(min_members, ceil(min_valid * G))` scored members.
        min_members: `AlgorithmSpec.min_members`; as many must be left after masking too.
        keep_constant: `AlgorithmSpec.trains_constant`: compute groups without reward variance too.

    Raises:
        ValueError: a rollout whose first turn has no context (nothing predicts its first token), or a
            turn with another number of log-probabilities than tokens, or another number of values for turns
            than turns.
    """
    sequences: list[TokenSequence] = []
    scores: list[Score] = []
    sampler_logprobs: list[float] = []
    turns: list[int] = []
    turn_rewards: list[tuple[float, ...]] = []
    trains: list[bool] = []
    used = constant = too_few = 0
    for group in groups:
        kept = kept_members(group, mask_truncated, min_valid, min_members)
        if not kept:
            too_few += 1
            continue
        # Answers that are not compared with each other need not differ.
        varies = min_members < 2 or rewards_vary(kept)
        for rollout, score in kept:
            sequence, logprobs = _token_sequence(rollout, used + constant, len(sampler_logprobs))
            sequences.append(sequence)
            sampler_logprobs += logprobs
            turns += [number for number, turn in enumerate(rollout.turns) for _ in turn.token_ids]
            turn_rewards.append(_turn_rewards(rollout, score))
            scores.append(score)
            trains.append(varies or keep_constant)
        used, constant = used + varies, constant + (not varies)

    sequence_N = [index for index, one in enumerate(sequences) for _ in one.policy_positions]
    part_names = tuple(sorted({name for score in scores for name in score.parts}))
    targets = [one.token_ids[position] for one in sequences for position in one.policy_positions]
    return Batch(
        sequences=tuple(sequences),
        target_ids_N=torch.tensor(targets, dtype=torch.long),
        sequence_N=torch.tensor(sequence_N, dtype=torch.long),
        sampler_logprobs_N=torch.tensor(sampler_logprobs, dtype=torch.float32),
        advantages_N=torch.zeros(len(targets)),
        rewards_S=torch.tensor([float(score) for score in scores], dtype=torch.float32),
        group_S=torch.tensor([one.group for one in sequences], dtype=torch.long),
        trains_S=torch.tensor(trains, dtype=torch.bool),
        stats=_stats(groups, used, constant, too_few, len(targets)),
        turn_N=torch.tensor(turns, dtype=torch.long),
        turn_rewards=tuple(turn_rewards),
        parts_SK=torch.tensor(
            [[_part(score, name) for name in part_names] for score in scores], dtype=torch.float32
        ).reshape(len(scores), len(part_names)),
        part_names=part_names,
    )


def kept_members(
    group: Group, mask_truncated: bool, min_valid: float, min_members: int = 2
) -> list[tuple[Rollout, Score]]:
    """The members that training sees, with their scores; none when too few are left. See `to_batch`."""
    kept = [
        (rollout, score)
        for rollout, score in zip(group.rollouts, group.scores, strict=True)
        if score.ok and not (mask_truncated and rollout.truncated)
    ]
    return kept if group.has_enough(min_valid, min_members) and len(kept) >= min_members else []


def rewards_vary(kept: Sequence[tuple[Rollout, Score]]) -> bool:
    """Whether not all rewards are the same, whatever their mean: else comparing answers teaches nothing."""
    return len({float(score) for _, score in kept}) > 1


def _turn_rewards(rollout: Rollout, score: Score) -> tuple[float, ...]:
    """The evaluator's values for turns, or else the environment's, where no opinion earns nothing."""
    if score.turn_values is not None:
        given = score.turn_values
    elif any(reward is not None for reward in rollout.rewards):
        given = tuple(reward or 0.0 for reward in rollout.rewards)
    else:
        return ()
    if len(given) != len(rollout.turns):
        raise ValueError(f"rollout {rollout.id}: {len(given)} values for {len(rollout.turns)} turns")
    return given


def _part(score: Score, name: str) -> float:
    part = score.parts.get(name)
    return float(part) if part is not None and part.ok else math.nan


def _token_sequence(rollout: Rollout, group: int, start: int) -> tuple[TokenSequence, list[float]]:
    if not rollout.turns or not rollout.turns[0].context_ids:
        raise ValueError(f"rollout {rollout.id} has no prompt tokens: its first turn needs context_ids")
    token_ids: list[int] = []
    positions: list[int] = []
    logprobs: list[float] = []
    for number, turn in enumerate(rollout.turns):
        if len(turn.logprobs) != len(turn.token_ids):
            raise ValueError(
                f"rollout {rollout.id}, turn {number}: {len(turn.token_ids)} sampled tokens "
                f"but {len(turn.logprobs)} log-probabilities"
            )
        token_ids += turn.context_ids
        positions += range(len(token_ids), len(token_ids) + len(turn.token_ids))
        token_ids += turn.token_ids
        logprobs += turn.logprobs
    sequence = TokenSequence(
        rollout_id=rollout.id,
        group=group,
        token_ids=tuple(token_ids),
        prompt_length=len(rollout.turns[0].context_ids),
        policy_positions=tuple(positions),
        start=start,
    )
    return sequence, logprobs


def _stats(groups: Sequence[Group], used: int, constant: int, too_few: int, tokens: int) -> BatchStats:
    rewards = torch.tensor([float(score) for group in groups for score in group.scores if score.ok])
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return BatchStats(
        groups_used=used,
        groups_constant=constant,
        groups_too_few=too_few,
        rollouts=len(rollouts),
        rollouts_unscored=len(rollouts) - rewards.numel(),
        rollouts_truncated=sum(rollout.truncated for rollout in rollouts),
        policy_tokens=tokens,
        reward_mean=rewards.mean().item(),
        reward_std=rewards.std(correction=0).item() if rewards.numel() else math.nan,
    )
