"""Credit: what each policy token did better than was to be expected.

    algorithm.kind: ppo        GAE against the critic's values (rft/learn/gae.py), whitened over the batch
    algorithm.advantage        against the other answers of the batch (rft/learn/advantage.py):
      group, rloo, max_rl        relative to the group
      gdpo                       the parts of the score one by one, relative to the group
      reinforce_pp               what follows each token, whitened over the batch      arXiv:2501.03262
      reinforce_pp_baseline      minus the group's mean, then whitened over the batch  arXiv:2501.03262
      module:function            one's own; see `Credit`

Turns (`turn_credit: turn`). A turn's return is the score less what earlier turns have earned:

    R_t = score - sum of the values of turns before t

so the returns of a rollout's first turn are its scores, and its last turn keeps what no value accounts for.
Whatever the values are, the score stays what is optimised: what was earned before a turn does not depend on
it. Returns are compared turn by turn, the first with the first. A rollout that ended before a turn of
another's stands in with the return of its own last turn, so that late turns, which few rollouts have, are
compared with as many answers as early ones; where only the outcome counts, turns and rollouts get the same
credit.

KL (`kl.place: reward`). beta times the estimate for a token is taken off what that token earned, with the
policy before the update: off the returns of its turn and those before it, and off its rollout's reward
where the whole rollout is compared.

Members that are masked are not in the batch, so no baseline, deviation or normaliser here can see them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from rft.errors import UserError
from rft.learn.advantage import gdpo, group_advantages, leave_one_out, max_rl
from rft.learn.batch import Batch
from rft.learn.gae import gae, rewards_to_go, whiten
from rft.learn.kl import kl_estimate
from rft.recipe.schema import AlgorithmSpec

Credit = Callable[[Batch], Tensor]
"""One's own credit, `algorithm.advantage: module:function` or `./file.py:function`.

It gets the batch, and `algorithm.advantage_args` as keyword arguments, and returns finite advantages: one
for each sequence, [S], which all its tokens then carry, or one for each policy token, [N]. It must not
change the batch. The batch holds `rewards_S` and `group_S`, `parts_SK` with `part_names`, `turn_N` with
`turn_rewards`, and `old_logprobs_N` and `ref_logprobs_N` where the recipe has them measured:

    def surprise(batch, weight=1.0):
        centred_S = batch.rewards_S - batch.rewards_S.mean()
        return centred_S[batch.sequence_N] - weight * batch.sampler_logprobs_N
"""


def assign_credit(batch: Batch, algorithm: AlgorithmSpec, credit: Credit | None = None) -> Batch:
    """The measured batch with an advantage for every policy token, and returns where there is a critic.

    Args:
        credit: decides instead of `algorithm.advantage`: the function that it names by path.

    Raises:
        ValueError: the batch lacks values or log-probabilities that the algorithm needs: it was not measured.
        UserError: rewards that the algorithm cannot take, or a `credit` that breaks its contract.
    """
    if batch.num_tokens == 0:
        return batch
    if algorithm.kind == "ppo":
        return _against_critic(batch, algorithm)
    if credit is not None:
        advantages_N = _own(batch, credit, algorithm.advantage)
    elif algorithm.advantage == "gdpo":
        advantages_N = gdpo_credit(batch)[batch.sequence_N]
    elif algorithm.advantage == "reinforce_pp":
        advantages_N = whiten(rewards_to_go(token_rewards(batch, algorithm), batch.sequence_N))
    else:
        advantages_N = _within_groups(batch, algorithm)
    return replace(batch, advantages_N=advantages_N)


def gdpo_credit(batch: Batch, *, weights: Mapping[str, float] | None = None) -> Tensor:
    """GDPO's advantages, [S]; a `Credit`.

    Args:
        weights: what each part of the score counts, by name; unset, and for parts not named, 1.
    """
    weights_K = torch.tensor([(weights or {}).get(name, 1.0) for name in batch.part_names])
    return gdpo(batch.parts_SK, weights_K, batch.rewards_S, batch.group_S)


def token_rewards(batch: Batch, algorithm: AlgorithmSpec) -> Tensor:
    """What each policy token earned, float64 [N]: the score at a rollout's last token, or each turn's share
    of it at the turn's last token, and everywhere the KL penalty off. A rollout's sum is its reward."""
    turn_N = _turns(batch, algorithm)
    to_go_N = turn_returns(batch, turn_N)[batch.sequence_N, turn_N]
    same_N = torch.zeros(batch.num_tokens, dtype=torch.bool)
    same_N[:-1] = batch.sequence_N[1:] == batch.sequence_N[:-1]
    rewards_N = to_go_N - to_go_N.roll(-1).where(same_N, 0.0)
    penalty_N = _penalty(batch, algorithm)
    return rewards_N if penalty_N is None else rewards_N - penalty_N


def turn_returns(batch: Batch, turn_N: Tensor) -> Tensor:
    """The score less what was earned before each turn, float64 [S, T]; a rollout's first turn has its score.

    Past a rollout's last turn with tokens its row says nothing.

    Args:
        turn_N: `batch.turn_N`; zeros, where rollouts are not taken apart.
    """
    returns_ST = batch.rewards_S.double()[:, None].repeat(1, int(turn_N.max()) + 1)
    for index, rewards in enumerate(batch.turn_rewards):
        earned = torch.tensor([0.0, *accumulate(rewards)], dtype=torch.float64)[: returns_ST.shape[1]]
        returns_ST[index, : len(earned)] -= earned
    return returns_ST


def _within_groups(batch: Batch, algorithm: AlgorithmSpec) -> Tensor:
    turn_N = _turns(batch, algorithm)
    returns_ST = turn_returns(batch, turn_N)
    sequences, turns = returns_ST.shape
    penalty_N = _penalty(batch, algorithm)
    if penalty_N is not None:
        cell_N = batch.sequence_N * turns + turn_N
        penalty_U = torch.zeros(sequences * turns, dtype=torch.float64).index_add(0, cell_N, penalty_N)
        returns_ST -= penalty_U.view(sequences, turns).flip(1).cumsum(1).flip(1)
    last_S = torch.zeros(sequences, dtype=torch.long).scatter_reduce(0, batch.sequence_N, turn_N, "amax")
    turn_ST = torch.arange(turns).expand(sequences, turns)
    returns_U = returns_ST.gather(1, turn_ST.minimum(last_S[:, None])).flatten()
    group_U = (batch.group_S[:, None] * turns + turn_ST).flatten()
    advantages_ST = _compare(returns_U, group_U, returns_ST[:, 0], algorithm).view(sequences, turns)
    advantages_N = advantages_ST[batch.sequence_N, turn_N]
    return whiten(advantages_N) if algorithm.advantage == "reinforce_pp_baseline" else advantages_N


def _compare(returns_U: Tensor, group_U: Tensor, rewards_S: Tensor, algorithm: AlgorithmSpec) -> Tensor:
    """Returns U (of sequences by turns) within their groups; float32."""
    if algorithm.advantage == "rloo":
        return leave_one_out(returns_U, group_U)
    if algorithm.advantage == "max_rl":
        try:
            return max_rl(returns_U, group_U)
        except ValueError as error:
            raise UserError(f"algorithm.advantage: {error}; take another advantage or evaluator") from error
    if algorithm.advantage == "reinforce_pp_baseline":
        return group_advantages(returns_U, group_U, "none")
    if algorithm.advantage != "group":
        raise ValueError(
            f"advantage {algorithm.advantage!r} is not built in: resolve it and pass the function"
        )
    # Under "batch", the deviation of the rewards, however many turns they are seen from.
    return group_advantages(returns_U, group_U, algorithm.scale_rewards, batch_S=rewards_S)


def _against_critic(batch: Batch, algorithm: AlgorithmSpec) -> Batch:
    if batch.values_N is None:
        raise ValueError("PPO needs the critic's values: pass the batch through Updater.measure first")
    critic = algorithm.critic
    advantages_N, returns_N = gae(
        token_rewards(batch, algorithm), batch.values_N, batch.sequence_N, gamma=critic.gamma, lam=critic.lam
    )
    if critic.whiten:
        advantages_N = whiten(advantages_N)
    return replace(batch, advantages_N=advantages_N, returns_N=returns_N)


def _own(batch: Batch, credit: Credit, name: str) -> Tensor:
    who = f"algorithm.advantage {name}"
    try:
        advantages = credit(batch)
    except Exception as error:
        raise UserError(f"{who} raised {type(error).__name__}: {error}") from error
    if not isinstance(advantages, Tensor):
        raise UserError(f"{who} returned {type(advantages).__name__}, not a tensor of advantages")
    shapes = [(len(batch.sequences),), (batch.num_tokens,)]
    if tuple(advantages.shape) not in shapes:
        raise UserError(
            f"{who} returned shape {tuple(advantages.shape)}; return one advantage for each sequence, "
            f"{shapes[0]}, or for each policy token, {shapes[1]}"
        )
    advantages = advantages.detach().float()
    if not advantages.isfinite().all():
        raise UserError(f"{who} returned advantages that are not finite")
    return advantages if advantages.shape == shapes[1] else advantages[batch.sequence_N]


def _turns(batch: Batch, algorithm: AlgorithmSpec) -> Tensor:
    return batch.turn_N if algorithm.turn_credit == "turn" else torch.zeros_like(batch.turn_N)


def _penalty(batch: Batch, algorithm: AlgorithmSpec) -> Tensor | None:
    """beta times the KL estimate of each token, float64 [N]; None where rewards have no such penalty."""
    if algorithm.beta == 0.0 or algorithm.kl.place != "reward":
        return None
    if batch.old_logprobs_N is None or batch.ref_logprobs_N is None:
        raise ValueError("a KL penalty in the reward needs log-probabilities: pass the batch through measure")
    estimate_N = kl_estimate(batch.old_logprobs_N, batch.ref_logprobs_N, algorithm.kl.estimator)
    return algorithm.beta * estimate_N.double()
