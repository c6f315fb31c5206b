"""The statistics of the check: how well scores tell good from bad, agree with people, and follow shortcuts.

    AUC                   P(good > bad) + P(equal) / 2            Hanley and McNeil 1982
    Cohen's kappa         1 - sum(w O) / sum(w E)                 quadratic w for ordinal labels: Cohen 1968
    Krippendorff's alpha  1 - (n - 1) sum(d O) / sum(d E)         interval metric, missing values allowed
    partial Spearman      Pearson of the ranks' residuals         what is left when a third thing is held

Intervals are 95 % percentile bootstraps over whole tasks or items, with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rft.stats import Estimate

Array = NDArray[Any]
Numbers = Sequence[float] | Array
RESAMPLES = 1000


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """The chance that a good answer outscores a bad one, ties counted half. NaN when either is missing.

    >>> auc([1.0, 0.5], [0.5, 0.0])
    0.875
    """
    if not len(good) or not len(bad):
        return float("nan")
    ranks = stats.rankdata(np.concatenate([np.asarray(good, float), np.asarray(bad, float)]))
    n, m = len(good), len(bad)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def auc_interval(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> Estimate:
    """AUC over (good scores, bad scores) of tasks; whole tasks are resampled, their answers hang together."""

    def pooled(indices: Sequence[int]) -> float:
        chosen = [pairs[index] for index in indices]
        return auc([x for good, _ in chosen for x in good], [x for _, bad in chosen for x in bad])

    return bootstrap(pooled, len(pairs), seed)


def bootstrap(statistic: Callable[[Sequence[int]], float], count: int, seed: int = 0) -> Estimate:
    """A statistic of `count` items with its 95 % interval; resamples without a value are left out."""
    random = np.random.default_rng(seed)
    point = statistic(range(count))
    drawn = [
        statistic(random.integers(0, count, count).tolist()) for _ in range(RESAMPLES if count > 1 else 0)
    ]
    found = [value for value in drawn if np.isfinite(value)]
    if not found:
        return Estimate(point, float("-inf"), float("inf"))
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(point, float(low), float(high))


def kappa(one: Sequence[int] | Array, other: Sequence[int] | Array, categories: int) -> float:
    """Cohen's kappa of two raters' categories 0, 1, ...; quadratic weights where there are more than two.

    NaN when chance alone would agree fully, as when both always say the same.

    >>> kappa([0, 0, 1, 1], [0, 0, 1, 0], 2)
    0.5
    """
    observed = np.zeros((categories, categories))
    np.add.at(observed, (np.asarray(one, int), np.asarray(other, int)), 1.0)
    expected = np.outer(observed.sum(1), observed.sum(0)) / max(observed.sum(), 1.0)
    grid = np.arange(categories)
    weights = (grid[:, None] - grid[None, :]) ** 2  # of two categories: 0 and 1, the plain kappa
    chance = float((weights * expected).sum())
    return float("nan") if chance == 0 else float(1 - (weights * observed).sum() / chance)


def krippendorff_alpha(ratings: Sequence[Sequence[float | None]]) -> float:
    """Alpha with the interval metric; one row an item, one column a rater, None where someone gave none.

    NaN when no item has two ratings, or all ratings are equal.

    >>> round(krippendorff_alpha([[1, 1], [2, 2], [3, 3], [3, 2], [None, 1]]), 3)
    0.727
    """
    kept = [np.array([r for r in row if r is not None], float) for row in ratings]
    kept = [row for row in kept if len(row) > 1]
    values = np.concatenate(kept) if kept else np.array([])
    n = len(values)
    if n < 2:
        return float("nan")

    def spread(row: Array) -> float:  # the sum of squared differences over ordered pairs
        return float(2 * (len(row) * (row**2).sum() - row.sum() ** 2))

    observed = sum(spread(row) / (len(row) - 1) for row in kept) / n
    expected = spread(values) / (n * (n - 1))
    return float("nan") if expected <= 1e-12 else float(1 - observed / expected)


def spearman(one: Numbers, other: Numbers) -> float:
    """Rank correlation; NaN when either is constant."""
    return partial_spearman(one, other, [])


def partial_spearman(one: Numbers, other: Numbers, held: Sequence[Numbers]) -> float:
    """Rank correlation of two variables with others held: Pearson of what ranks those others leave over.

    >>> partial_spearman([1, 2, 3, 4], [1, 2, 3, 4], [])
    1.0
    """
    design = np.column_stack([np.ones(len(one)), *(stats.rankdata(column) for column in held)])
    first, second = (_residual(stats.rankdata(values), design) for values in (one, other))
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    # Residuals of a variable that the others explain fully are rounding, not ranks.
    if norm < 1e-9 * len(one) ** 2:
        return float("nan")
    return float(np.clip(first @ second / norm, -1.0, 1.0))


def _residual(values: Array, design: Array) -> Array:
    solution = np.linalg.lstsq(design, values, rcond=None)[0]
    residual: Array = values - design @ solution
    return residual
