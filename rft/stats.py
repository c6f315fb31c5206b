"""Means with intervals: what a held-out score is worth, and whether two of them differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats would cost 70 MB and a third of a second


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    >>> str(Estimate(0.31, 0.25, 0.37))
    '0.310 [0.250, 0.370]'
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of independent values with Student's t interval; infinitely wide for a single value.

    Several samples of one task are not independent: average them first.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) == 1:
        return Estimate(mean, -math.inf, math.inf)
    half = float(special.stdtrit(len(array) - 1, (1 + level) / 2) * array.std(ddof=1) / math.sqrt(len(array)))
    return Estimate(mean, mean - half, mean + half)


def paired_difference(after: Sequence[float], before: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of after - before on the same tasks, in the same order. Raises ValueError for unequal lengths."""
    return mean_interval([new - old for new, old in zip(after, before, strict=True)], level)


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Chance that one of k samples passes, from n samples of which c passed: 1 - C(n-c, k) / C(n, k).

    Unbiased; Chen et al. 2021, arXiv:2107.03374, equation 1. Raises ValueError when k exceeds n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if k > num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples a task, got {num_samples}")
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)
