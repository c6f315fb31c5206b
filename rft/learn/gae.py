"""Advantages over time, where a critic says what was to be expected after each token.

    delta_t = r_t + gamma V_{t+1} - V_t
    A_t     = delta_t + gamma lambda A_{t+1}           GAE, arXiv:1506.02438, equations 11 and 16
    R_t     = A_t + V_t                                what the critic should have said

t counts the policy's tokens alone. What an environment or a tool said between two turns is no action: it has
no value and no reward, is not discounted, and the last token of a turn is followed by the first of the next.

Nothing follows the last token, whatever ended the rollout. A limit of time would be bootstrapped with the
critic's value in control tasks (arXiv:1712.00378), because there the episode would have gone on earning;
here the evaluator has judged the answer as it stands, cut or not, and its score is the whole of what is
earned. Adding the value of an answer that goes on would pay for running into the limit. Rollouts that should
not be judged when they are cut are masked instead (`rollout.truncated`).
"""

from __future__ import annotations

from torch import Tensor


def gae(
    rewards_N: Tensor, values_N: Tensor, sequence_N: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both float32 [N].

    Args:
        rewards_N: what each policy token earned; mostly zeros, with the score at a sequence's last token.
        values_N: what the critic expected before each token.
        sequence_N: whose token; the tokens of a sequence are adjacent and in order.
        gamma: discount a token; a lambda of 1 makes the returns plain discounted sums of rewards.
    """
    rewards, values, sequence = rewards_N.tolist(), values_N.tolist(), sequence_N.tolist()
    advantages = [0.0] * len(rewards)
    # Plain numbers, every one a float64: 100,000 tokens take a few tenths of a second.
    for n in reversed(range(len(rewards))):
        goes_on = n + 1 < len(rewards) and sequence[n + 1] == sequence[n]
        value_after, advantage_after = (values[n + 1], advantages[n + 1]) if goes_on else (0.0, 0.0)
        delta = rewards[n] + gamma * value_after - values[n]
        advantages[n] = delta + gamma * lam * advantage_after
    advantages_N = rewards_N.new_tensor(advantages)
    return advantages_N.float(), (advantages_N + values_N).float()


def rewards_to_go(rewards_N: Tensor, sequence_N: Tensor) -> Tensor:
    """What each token and those after it in its sequence earned: GAE with nothing expected or discounted."""
    return gae(rewards_N, rewards_N.new_zeros(rewards_N.shape), sequence_N, gamma=1.0, lam=1.0)[0]


def whiten(values_N: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over all policy tokens of a batch, var unbiased; a lone token gets 0.

    The mean is gone from the result. The function that TRL's PPO used had a flag to add it back
    (`shift_mean=False`, for rewards), and ports of it that read the flag the other way kept the advantages'
    mean, which pushes every token of a batch in one direction.
    """
    values_N = values_N.double()
    if values_N.numel() < 2:
        return values_N.new_zeros(values_N.shape).float()
    return ((values_N - values_N.mean()) * (values_N.var() + 1e-8).rsqrt()).float()
