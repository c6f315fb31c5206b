"""The loss types: what is minimised for each token, given r = policy / old and the advantage A.

    grpo, dr_grpo, dapo, bnpo, luspo    -min(r A, clip(r, 1 - e_low, 1 + e_high) A)    its own normaliser
    cispo                               -stop(min(r, e_high)) A log policy             dapo's
    sapo                                -(4 / t) sigmoid(t (r - 1)) A                  grpo's
    vespo                               -stop(phi(w)) A log policy                     dapo's

`stop` takes a value without its gradient. With `importance_level: sequence` r is the geometric mean over the
sequence's tokens: `grpo` is then GSPO (arXiv:2507.18071), `luspo` LUSPO. Names, meanings and constants are
TRL's. A loss of your own is given by path; see `rft.learn.loss`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rft.errors import UserError
from rft.learn.loss import LossConfig, LossInputs, Surrogate, log_ratios
from rft.learn.mismatch import mismatch_weights
from rft.learn.normalise import Normaliser
from rft.learn.segments import first_of_each, sequence_sums
from rft.recipe.schema import AlgorithmSpec


def clipped(inputs: LossInputs, config: LossConfig) -> Tensor:
    """-min(r A, clip(r, 1 - e_low, 1 + e_high) A), PPO's (arXiv:1707.06347, equation 7), with two bounds.

    Separate bounds are DAPO's clip-higher (arXiv:2503.14476, section 3.1). `delta` caps the unclipped r, and
    so what a bad answer can do once it has become likelier (INTELLECT-2, arXiv:2505.07291).
    `dual_clip` c does the same for negative A alone: the loss is at most -c A (arXiv:1912.09729).
    """
    ratio_N = log_ratios(inputs, config.importance_level).exp()
    clipped_N = ratio_N.clamp(config.ratio_min, config.ratio_max)
    if config.delta is not None:
        ratio_N = ratio_N.clamp(max=config.delta)
    advantages_N = inputs.advantages_N
    gain_N = torch.min(ratio_N * advantages_N, clipped_N * advantages_N)
    if config.dual_clip is not None:
        gain_N = torch.where(advantages_N < 0, torch.max(gain_N, config.dual_clip * advantages_N), gain_N)
    return -gain_N


def cispo(inputs: LossInputs, config: LossConfig) -> Tensor:
    """-stop(min(r, e_high)) A log policy: the weight is clipped, so no token loses its gradient.

    MiniMax-M1, arXiv:2506.13585, without the lower bound, which its authors do not use
    either. `epsilon_high` bounds r itself, not r - 1, as in ScaleRL (arXiv:2510.13786).
    """
    ratio_N = log_ratios(inputs, config.importance_level).exp().detach()
    return -ratio_N.clamp(max=config.ratio_max) * inputs.advantages_N * inputs.policy_logprobs_N


def sapo(
    inputs: LossInputs, config: LossConfig, *, temperature_pos: float = 1.0, temperature_neg: float = 1.05
) -> Tensor:
    """-(4 / t) sigmoid(t (r - 1)) A: a gate that closes softly; arXiv:2511.20347.

    t is `temperature_pos` for positive A and `temperature_neg` for the others. At r = 1 the slope is that of
    r A.
    """
    advantages_N = inputs.advantages_N
    ratio_N = log_ratios(inputs, config.importance_level).exp()
    temperature_N = torch.where(advantages_N > 0, temperature_pos, temperature_neg)
    gate_N = torch.sigmoid(temperature_N * (ratio_N - 1.0)) * 4.0 / temperature_N
    return -gate_N * advantages_N


_LOG_SMALLEST, _LOG_LARGEST = math.log(1e-8), 20.0


def vespo(
    inputs: LossInputs,
    config: LossConfig,
    *,
    k_pos: float = 2.0,
    lambda_pos: float = 3.0,
    k_neg: float = 3.0,
    lambda_neg: float = 2.0,
) -> Tensor:
    """-stop(phi(w)) A log policy with phi(w) = exp(lambda) w^k exp(-lambda w); arXiv:2602.10693.

    w is the sequence's policy / sampler probability: the product of its tokens' r, times its mismatch
    weights, which are therefore not applied again. phi(1) = 1; k and lambda depend on A's sign. Logarithms
    are kept within log(1e-8) to 20.
    """
    log_ratio_N = log_ratios(inputs, "token").detach().clamp(-_LOG_LARGEST, _LOG_LARGEST)
    if config.mismatch.mode != "off":
        weights_N = mismatch_weights(
            inputs.old_logprobs_N, inputs.sampler_logprobs_N, inputs.sequence_N, config.mismatch
        )
        log_weights_N = weights_N.log().clamp(_LOG_SMALLEST, _LOG_LARGEST)
        if config.mismatch.level == "sequence":  # every token carries its sequence's weight: count it once
            log_weights_N = log_weights_N * first_of_each(inputs.sequence_N)
        log_ratio_N = log_ratio_N + log_weights_N
    log_w_N = sequence_sums(log_ratio_N, inputs.sequence_N).clamp(_LOG_SMALLEST, _LOG_LARGEST)
    gains_N = inputs.advantages_N >= 0
    k_N = torch.where(gains_N, k_pos, k_neg)
    lambda_N = torch.where(gains_N, lambda_pos, lambda_neg)
    phi_N = (lambda_N + k_N * log_w_N - lambda_N * log_w_N.exp()).exp()
    return -phi_N * inputs.advantages_N * inputs.policy_logprobs_N


class LossType(NamedTuple):
    """A surrogate and what belongs to it."""

    surrogate: Surrogate
    normaliser: Normaliser
    corrects_itself: bool = False


LOSS_TYPES: dict[str, LossType] = {
    "grpo": LossType(clipped, "grpo"),
    "dr_grpo": LossType(clipped, "dr_grpo"),
    "dapo": LossType(clipped, "dapo"),
    "bnpo": LossType(clipped, "bnpo"),
    "luspo": LossType(clipped, "luspo"),
    "cispo": LossType(cispo, "dapo"),
    "sapo": LossType(sapo, "grpo"),
    "vespo": LossType(vespo, "dapo", corrects_itself=True),
}


def loss_type(algorithm: AlgorithmSpec, own: Surrogate | None = None) -> LossType:
    """The recipe's loss type, its constants filled in.

    Args:
        own: the function that `algorithm.loss_type` names by path, if it does.

    Raises ValueError for a name that is neither built in nor resolved.
    """
    if own is None and algorithm.loss_type not in LOSS_TYPES:
        raise ValueError(
            f"loss_type {algorithm.loss_type!r} is not built in: resolve it and pass the function"
        )
    kind = LossType(own, "dapo") if own is not None else LOSS_TYPES[algorithm.loss_type]
    surrogate: Surrogate = partial(kind.surrogate, **algorithm.loss_args)
    return kind._replace(
        surrogate=surrogate if own is None else _watched(surrogate, algorithm.loss_type),
        normaliser=algorithm.normaliser or kind.normaliser,
    )


def _watched(surrogate: Surrogate, name: str) -> Surrogate:
    """The same function, whose mistakes come out as UserError: it is somebody's own."""
    who = f"algorithm.loss_type: {name}"

    def checked(inputs: LossInputs, config: LossConfig) -> Tensor:
        try:
            loss_N = surrogate(inputs, config)
        except Exception as error:
            raise UserError(f"{who} raised {type(error).__name__}: {error}") from error
        wanted = tuple(inputs.policy_logprobs_N.shape)
        if not isinstance(loss_N, Tensor) or tuple(loss_N.shape) != wanted:
            got = f"shape {tuple(loss_N.shape)}" if isinstance(loss_N, Tensor) else type(loss_N).__name__
            raise UserError(f"{who} returned {got}; return one loss for each policy token, shape {wanted}")
        if inputs.policy_logprobs_N.requires_grad and not loss_N.requires_grad:
            raise UserError(f"{who} returned a loss without a gradient; make it of inputs.policy_logprobs_N")
        return loss_N

    return checked


def loss_config(algorithm: AlgorithmSpec, kind: LossType) -> LossConfig:
    """What the loss needs of the recipe."""
    epsilon_high = algorithm.epsilon if algorithm.epsilon_high is None else algorithm.epsilon_high
    bounds = {"cispo": (0.0, epsilon_high), "sapo": (0.0, math.inf), "vespo": (0.0, math.inf)}
    ratio_min, ratio_max = bounds.get(algorithm.loss_type, (1.0 - algorithm.epsilon, 1.0 + epsilon_high))
    return LossConfig(
        surrogate=kind.surrogate,
        corrects_itself=kind.corrects_itself,
        ratio_min=ratio_min,
        ratio_max=ratio_max,
        delta=algorithm.delta,
        dual_clip=algorithm.dual_clip,
        importance_level=algorithm.importance_level,
        beta=algorithm.beta if algorithm.kl.place == "loss" else 0.0,
        kl=algorithm.kl,
        mismatch=algorithm.mismatch,
    )
