"""Keeping the policy undecided enough to explore: which tokens are trained, and a bonus for entropy.

**Undecided tokens.** Most tokens of an answer are forced by those before; few decide where it goes. With
`top_quantile` 0.2 the surrogate counts only on the fifth of the tokens with the highest entropy
(arXiv:2506.01939). The threshold is taken over the whole optimizer batch and from entropies measured before
the update, so that neither the cut into micro-batches nor a later pass moves it. TRL takes both from the
forward at hand.

**Bonus.** The loss is lowered by `coef` times the mean entropy of the tokens that the surrogate counts on,
whatever its normaliser is. With a `target`, `coef` follows it as in Skywork-OR1 (arXiv:2505.22312): after
each optimizer step it grows by `step` when the entropy was at or below the target and falls otherwise,
between 0 and `coef_max`, and it is applied only while the last entropy was at or below the target. So the
first step of a run applies none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rft.recipe.schema import EntropySpec

_TIE = 1e-4
"""Nats. The first tokens of answers to one prompt have one entropy, and rounding must not part them."""


def undecided(entropy_N: Tensor, top_quantile: float) -> Tensor:
    """bool, True: among the `top_quantile` of all tokens given with the highest entropy.

    The threshold is their quantile at 1 - top_quantile, interpolated; tokens that tie with it are in.
    """
    if entropy_N.numel() == 0:
        return torch.zeros_like(entropy_N, dtype=torch.bool)
    # Not torch.quantile, which refuses more than 16 million values.
    ordered_N = entropy_N.sort().values
    place = (1.0 - top_quantile) * (entropy_N.numel() - 1)
    low, high = ordered_N[math.floor(place)], ordered_N[math.ceil(place)]
    return entropy_N >= torch.lerp(low, high, place - math.floor(place)) - _TIE


class EntropyBonus:
    """The coefficient, step after step."""

    def __init__(self, spec: EntropySpec) -> None:
        self._spec = spec
        self.coef = spec.coef
        """Where the coefficient stands; `applied` says whether it counts."""
        self._last = math.inf

    @property
    def enabled(self) -> bool:
        """Whether there ever is a bonus: only then is an entropy's gradient worth computing."""
        return self._spec.coef != 0.0 or self._spec.target is not None

    @property
    def applied(self) -> float:
        """The coefficient of the step at hand."""
        target = self._spec.target
        return self.coef if target is None or self._last <= target else 0.0

    def saw(self, entropy: float) -> None:
        """After an optimizer step: the mean entropy, in nats, of the tokens it trained on."""
        target = self._spec.target
        if target is None:
            return
        change = self._spec.step if entropy <= target else -self._spec.step
        self.coef = min(max(self.coef + change, 0.0), self._spec.coef_max)
        self._last = entropy

    def state(self) -> dict[str, float | None]:
        """What an exact continuation needs."""
        return {"coef": self.coef, "last": self._last if math.isfinite(self._last) else None}

    def restore(self, state: dict[str, float | None]) -> None:
        """Goes on from `state()`."""
        coef, last = state["coef"], state["last"]
        assert coef is not None
        self.coef, self._last = coef, math.inf if last is None else last
