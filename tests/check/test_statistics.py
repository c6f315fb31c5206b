"""The statistics against worked examples and other people's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rft.check.statistics import (
    auc,
    auc_interval,
    bootstrap,
    kappa,
    krippendorff_alpha,
    partial_spearman,
    spearman,
)

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=12)


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_won_ties_counted_half(good, bad):
    pairs = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
    assert auc(good, bad) == pytest.approx(np.mean(pairs))


def test_auc_without_one_kind_is_no_number():
    assert math.isnan(auc([], [1.0]))


def test_the_interval_of_a_perfect_separation_is_a_point_and_of_one_task_infinite():
    perfect = auc_interval([([1.0], [0.0])] * 5)
    assert (perfect.mean, perfect.low, perfect.high) == (1.0, 1.0, 1.0)
    assert auc_interval([([1.0], [0.0])]).low == -math.inf


def test_the_bootstrap_interval_of_a_mean_is_about_students():
    values = np.random.default_rng(3).normal(size=200)
    found = bootstrap(lambda index: float(values[list(index)].mean()), len(values))
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_kappa_of_the_textbook_table():
    # Cohen's kappa, the example of Wikipedia's article: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no.
    one = [1] * 25 + [0] * 25
    other = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert kappa(one, other, 2) == pytest.approx(0.4)


def test_quadratic_weights_forgive_near_misses_and_chance_counts_for_nothing():
    truth = [0, 1, 2, 3, 4] * 4
    near = [min(4, value + 1) for value in truth]
    far = [4 - value for value in truth]
    assert kappa(truth, truth, 5) == 1.0
    assert kappa(truth, near, 5) > 0.7 > 0 > kappa(truth, far, 5)
    assert kappa(truth, [2] * 20, 5) == pytest.approx(0.0)


def test_alpha_of_krippendorffs_own_example():
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: interval metric, 0.849.
    observers = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    rows = [[None if mark == "." else float(mark) for mark in line.split()] for line in observers]
    assert krippendorff_alpha(list(zip(*rows, strict=True))) == pytest.approx(0.849, abs=5e-4)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_is_scipys(pairs):
    one, other = map(list, zip(*pairs, strict=True))
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert math.isnan(spearman(one, other))
    else:
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-9)


def test_partial_spearman_is_the_textbook_formula():
    random = np.random.default_rng(0)
    z = random.normal(size=80)
    x, y = z + random.normal(size=80), z + random.normal(size=80)
    xy, xz, yz = (stats.spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    formula = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_spearman(x, y, [z]) == pytest.approx(formula, abs=1e-9)
    assert abs(formula) < 0.25 < xy  # nearly all of it came from z


def test_what_is_held_fixed_fully_leaves_no_number():
    assert math.isnan(partial_spearman([1, 2, 3, 4], [2, 1, 4, 3], [[2, 1, 4, 3]]))
