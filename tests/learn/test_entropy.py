"""Which tokens count as undecided, and how the bonus follows its target."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rft.learn.entropy import EntropyBonus, undecided
from rft.recipe.schema import EntropySpec


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        # The quantiles of 0.1, 0.5, 0.9 at 1 - share: 0.9 at 1, 0.7 at 0.75, 0.5 at 0.5, 0.1 at 0.
        (1e-9, [False, True, False]),
        (0.25, [False, True, False]),
        (0.5, [False, True, True]),
        (1.0, [True, True, True]),
    ],
)
def test_three_tokens_by_hand(share, expected):
    assert undecided(torch.tensor([0.1, 0.9, 0.5]), share).tolist() == expected


@given(st.lists(st.floats(0, 5, width=32), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_the_threshold_is_torchs_quantile(entropies, share):
    entropy_N = torch.tensor(entropies)
    threshold = torch.quantile(entropy_N.double(), 1.0 - share)
    clear_N = (entropy_N - threshold).abs() > 1e-3
    assert torch.equal(undecided(entropy_N, share)[clear_N], (entropy_N >= threshold)[clear_N])


def test_rounding_does_not_part_tokens_of_one_entropy():
    entropy_N = torch.tensor([2.0, 2.00001, 1.99999, 1.0])
    assert undecided(entropy_N, 0.5).tolist() == [True, True, True, False]


def test_no_tokens_are_no_error():
    assert undecided(torch.empty(0), 0.2).shape == (0,)


def test_a_fixed_coefficient_stays():
    bonus = EntropyBonus(EntropySpec(coef=0.01))
    assert bonus.enabled
    for entropy in (0.0, 9.0):
        bonus.saw(entropy)
        assert bonus.applied == 0.01


def test_without_a_coefficient_there_is_no_bonus():
    assert not EntropyBonus(EntropySpec()).enabled
    assert EntropyBonus(EntropySpec(target=0.3)).enabled


def test_a_coefficient_follows_its_target_by_hand():
    bonus = EntropyBonus(EntropySpec(coef=0.3, target=1.0, step=0.25, coef_max=0.5))
    assert bonus.applied == 0.0, "nothing is known yet"
    seen = []
    for entropy in (1.0, 0.5, 2.0, 3.0, 3.0, 0.9):
        bonus.saw(entropy)
        seen.append((bonus.coef, bonus.applied))
    # Grows at and below the target, up to coef_max; shrinks above it, down to 0, and does not count there.
    expected = [(0.5, 0.5), (0.5, 0.5), (0.25, 0.0), (0.0, 0.0), (0.0, 0.0), (0.25, 0.25)]
    assert seen == expected


@pytest.mark.parametrize("seen", [[], [0.5], [0.5, 2.0]])
def test_the_coefficient_goes_on_where_it_was(seen):
    spec = EntropySpec(coef=0.1, target=1.0, step=0.01)
    bonus, again = EntropyBonus(spec), EntropyBonus(spec)
    for entropy in seen:
        bonus.saw(entropy)
    again.restore(bonus.state())
    for one in (bonus, again):
        one.saw(0.7)
    assert (bonus.coef, bonus.applied) == (again.coef, again.applied)
