"""TRL's own lines as the oracle of credit, run on the same rewards.

They stand inside a method that generates; the part that turns rewards into advantages is cut out of its
source and run. TRL leaves a missing part out for one member and we for its group, so only full groups are
compared.
"""

from __future__ import annotations

import inspect
import textwrap
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_cases import batch_of, credit, measured, random_groups, rollout
from trl import GRPOTrainer, RLOOTrainer
from trl.trainer.utils import nanstd

from rft.learn.credit import assign_credit, gdpo_credit
from rft.recipe.schema import AlgorithmSpec
from rft.types import Group, Score


def trl_advantages(trainer, first: str, last: str, self, **names) -> torch.Tensor:
    """What TRL's own lines, from one that holds `first` to one that holds `last`, make of `names`."""
    lines = inspect.getsource(trainer._generate_and_score_completions).splitlines()
    start = next(index for index, line in enumerate(lines) if first in line)
    end = next(index for index, line in enumerate(lines) if index > start and last in line)
    code = textwrap.dedent("\n".join(lines[start : end + 1]))
    scope = {"torch": torch, "nanstd": nanstd, "self": self, "device": "cpu", **names}
    exec(code, scope)
    return scope["advantages"].float()


REWARDS = st.lists(st.lists(st.floats(0, 4, width=16), min_size=4, max_size=4), min_size=1, max_size=3)


def one_token_groups(rewards_PG, parts=None) -> list[Group]:
    made = []
    for p, rewards in enumerate(rewards_PG):
        rollouts = [rollout(f"g{p}/{i}", ([1], [2])) for i in range(len(rewards))]
        scores = [Score(reward) for reward in rewards]
        if parts is not None:
            scores = [
                Score(reward, parts={f"part{k}": Score(value) for k, value in enumerate(parts[p][i])})
                for i, reward in enumerate(rewards)
            ]
        made.append(Group(f"g{p}", rollouts[0].task, rollouts, scores))
    return made


@given(rewards_PG=REWARDS, scale=st.sampled_from(["group", "batch", "none"]))
def test_trl_agrees_on_grpo(rewards_PG, scale):
    theirs = trl_advantages(
        GRPOTrainer,
        "unscorable_mask =",
        "advantages = torch.nan_to_num",
        SimpleNamespace(
            multi_objective_aggregation="sum_then_normalize",
            scale_rewards=scale,
            reward_weights=torch.ones(1),
            reward_funcs=[None],
        ),
        rewards_per_func=torch.tensor(rewards_PG, dtype=torch.float64).view(-1, 1),
        num_generations=4,
    )
    ours = credit(batch_of(one_token_groups(rewards_PG)), scale_rewards=scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@given(
    parts_PGK=st.lists(
        st.lists(st.lists(st.floats(0, 4, width=16), min_size=2, max_size=2), min_size=4, max_size=4),
        min_size=1,
        max_size=3,
    )
)
def test_trl_agrees_on_gdpo(parts_PGK):
    theirs = trl_advantages(
        GRPOTrainer,
        "unscorable_mask =",
        "advantages = torch.nan_to_num",
        SimpleNamespace(
            multi_objective_aggregation="normalize_then_sum",
            reward_weights=torch.tensor([1.0, -0.5], dtype=torch.float64),
            reward_funcs=[None, None],
        ),
        rewards_per_func=torch.tensor(parts_PGK, dtype=torch.float64).view(-1, 2),
        num_generations=4,
    )
    batch = batch_of(one_token_groups([[0.0] * 4 for _ in parts_PGK], parts_PGK))
    ours = assign_credit(
        batch,
        AlgorithmSpec(advantage="gdpo"),
        lambda batch: gdpo_credit(batch, weights={"part0": 1.0, "part1": -0.5}),
    ).advantages_N
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_trl_agrees_on_rloo_with_a_penalty_on_the_reward(beta):
    batch = measured(batch_of(random_groups(3, groups=3, size=4, completion=(1, 5))))
    length_S = torch.bincount(batch.sequence_N)
    mask_ST = torch.arange(int(length_S.max())) < length_S[:, None]
    old_ST, ref_ST = torch.zeros(mask_ST.shape), torch.zeros(mask_ST.shape)
    old_ST[mask_ST], ref_ST[mask_ST] = batch.old_logprobs_N, batch.ref_logprobs_N
    theirs = trl_advantages(
        RLOOTrainer,
        "unscorable_mask =",
        "advantages = torch.nan_to_num",
        SimpleNamespace(
            reward_weights=torch.ones(1), reward_clip_range=None, beta=beta, normalize_advantages=False
        ),
        rewards_per_func=batch.rewards_S[:, None],
        num_generations=4,
        old_per_token_logps=old_ST,
        ref_per_token_logps=ref_ST,
        completion_mask=mask_ST,
        gather=lambda values: values,
    )
    ours = credit(batch, advantage="rloo", beta=beta, kl={"place": "reward", "estimator": "k1"})
    torch.testing.assert_close(ours, theirs[batch.sequence_N], rtol=1e-5, atol=1e-5)
