"""Intervals and pass@k, against numbers worked by hand and by brute force."""

from __future__ import annotations

import itertools
import math

import pytest

from rft.stats import mean_interval, paired_difference, pass_at_k


def test_the_interval_is_students_t():
    # 1, 2, 3, 4: mean 2.5, s = sqrt(5/3), t(0.975, 3) = 3.18245 from a printed table: half = 3.18245 * s / 2
    estimate = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.18245 * math.sqrt(5 / 3) / 2
    assert estimate.mean == 2.5
    assert (estimate.low, estimate.high) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-4)
    narrower = mean_interval([1.0, 2.0, 3.0, 4.0], level=0.9)
    assert narrower.high - 2.5 == pytest.approx(2.35336 * math.sqrt(5 / 3) / 2, abs=1e-4)


def test_equal_values_have_an_interval_of_no_width_and_one_value_says_nothing():
    assert mean_interval([0.5, 0.5, 0.5]) == mean_interval([0.5] * 9)
    alone = mean_interval([0.5])
    assert (alone.mean, alone.low, alone.high) == (0.5, -math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])


def test_a_difference_is_taken_pair_by_pair():
    before, after = [0.1, 0.5, 0.9], [0.2, 0.6, 1.0]
    difference = paired_difference(after, before)
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    unpaired = mean_interval(after).mean - mean_interval(before).mean
    assert difference.mean == pytest.approx(unpaired)
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize("num_samples", range(1, 7))
def test_pass_at_k_is_the_share_of_draws_with_a_pass(num_samples):
    for num_passed in range(num_samples + 1):
        samples = [1] * num_passed + [0] * (num_samples - num_passed)
        for k in range(1, num_samples + 1):
            draws = list(itertools.combinations(samples, k))
            share = sum(any(draw) for draw in draws) / len(draws)
            assert pass_at_k(num_samples, num_passed, k) == pytest.approx(share)


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="pass@5 needs at least 5 samples a task, got 4"):
        pass_at_k(4, 1, 5)
