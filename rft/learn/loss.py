"""The policy loss, and the contract that every loss type fulfils, yours included.

    loss = sum_n  weight_n * (mismatch_n * kept_n * surrogate_n + beta * kl_n)

- `surrogate_n`: what the loss type says; see `rft.learn.surrogates`.
- `mismatch_n`: the policy's probability over the sampler's, because an inference engine does not compute
  exactly the trainer's probabilities; see `rft.learn.mismatch`. It scales the surrogate only.
- `kept_n`: 0 for what is left out of the surrogate: bad completions that are too far off policy, and tokens
  that the policy is sure of where only undecided ones are trained; see `rft.learn.mismatch`, `.entropy`.
- `kl_n`: divergence from the reference; see `rft.learn.kl`.
- `weight_n`: one over the loss type's normaliser; see `rft.learn.normalise`. It is computed over the whole
  optimizer batch, so that the gradient does not depend on how the batch is cut into micro-batches.

A loss of your own is a function of this type, named in the recipe as `loss_type: ./mine.py:my_loss`:

    def my_loss(inputs: LossInputs, config: LossConfig, *, strength: float = 1.0) -> Tensor:
        ratio_N = (inputs.policy_logprobs_N - inputs.old_logprobs_N).exp()
        return -strength * ratio_N * inputs.advantages_N

It returns one loss per token, before weight, correction and KL; a gradient flows through
`policy_logprobs_N` only. `algorithm.loss_args` gives its keyword arguments.

Axes: N policy tokens of any number of sequences; `sequence_N` says whose, from 0. Sequences are whole: all
tokens of a sequence are in the same call. Definitions are those of TRL 1.16, which the tests hold as the
oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from rft.learn.kl import loss_kl
from rft.learn.mismatch import mismatch_weights, off_policy_kept
from rft.learn.segments import sequence_means
from rft.recipe.schema import KLSpec, MismatchSpec


class LossInputs(NamedTuple):
    """What is known of each policy token. Only `policy_logprobs_N` (and `entropy_N`) carry a gradient."""

    policy_logprobs_N: Tensor
    """The policy now."""
    old_logprobs_N: Tensor
    """The policy at the start of the update, before its first optimizer step."""
    sampler_logprobs_N: Tensor
    """The engine, when it sampled; NaN where it did not say."""
    advantages_N: Tensor
    sequence_N: Tensor
    """Whose token, an integer; not necessarily without gaps."""
    entropy_N: Tensor
    """Nats, of the policy now; has a gradient only where an entropy bonus is asked for."""
    ref_logprobs_N: Tensor | None = None
    """The reference; given exactly when the loss has a KL term."""
    undecided_N: Tensor | None = None
    """bool, True: the surrogate counts. None: it counts everywhere."""


@dataclass(frozen=True)
class LossConfig:
    """What the loss needs to know, from the recipe's `algorithm`; see `rft.learn.surrogates.loss_config`."""

    surrogate: Surrogate
    corrects_itself: bool = False
    """The surrogate applies the mismatch correction itself, so it must not be applied again."""
    ratio_min: float = 0.8
    """Where a falling ratio policy / old is clipped; 0 where the loss type does not."""
    ratio_max: float = 1.2
    """Where a rising one is; infinite where the loss type does not."""
    delta: float | None = None
    dual_clip: float | None = None
    importance_level: Literal["token", "sequence"] = "token"
    beta: float = 0.0
    """Weight of the KL term in the loss; 0 when the divergence is taken off the reward."""
    kl: KLSpec = KLSpec()
    mismatch: MismatchSpec = MismatchSpec()


Surrogate = Callable[[LossInputs, LossConfig], Tensor]
"""Loss per token [N], before correction, weight and KL."""


def log_ratios(inputs: LossInputs, level: Literal["token", "sequence"]) -> Tensor:
    """log(policy / old) of each token, or the mean of its sequence's tokens (GSPO, arXiv:2507.18071)."""
    log_ratio_N = inputs.policy_logprobs_N - inputs.old_logprobs_N
    return log_ratio_N if level == "token" else sequence_means(log_ratio_N, inputs.sequence_N)


def policy_loss(inputs: LossInputs, weights_N: Tensor, config: LossConfig) -> Tensor:
    """The loss of some whole sequences; summed over an optimizer step's calls it is the step's loss.

    Args:
        weights_N: from `rft.learn.normalise.token_weights` over the whole step.

    Raises ValueError for a KL term without a reference.
    """
    policy_N, old_N, sampler_N, advantages_N, sequence_N, *_ = inputs
    mismatch = config.mismatch
    loss_N = config.surrogate(inputs, config)
    if mismatch.off_policy_threshold is not None:
        kept_N = off_policy_kept(policy_N, sampler_N, advantages_N, sequence_N, mismatch.off_policy_threshold)
        loss_N = loss_N * kept_N
    if inputs.undecided_N is not None:
        loss_N = loss_N * inputs.undecided_N
    if not config.corrects_itself:
        loss_N = loss_N * mismatch_weights(old_N, sampler_N, sequence_N, mismatch)
    if config.beta != 0.0:
        if inputs.ref_logprobs_N is None:
            raise ValueError("beta is not 0, so the loss needs the reference model's log-probabilities")
        log_ratio_N = log_ratios(inputs, config.importance_level)
        kl_N = loss_kl(policy_N, inputs.ref_logprobs_N, log_ratio_N, config.kl)
        loss_N = loss_N + config.beta * kl_N
    return (weights_N * loss_N).sum()
