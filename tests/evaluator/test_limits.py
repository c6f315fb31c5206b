"""Limits that make no sense are refused where they are written."""

from __future__ import annotations

import pytest

from rft.evaluator import (
    Limits,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"attempts": 0},
        {"timeout_s": 0},
        {"deadline_s": -1},
        {"rpm": 0},
        {"backoff_s": -1},
    ],
)
def test_limits_that_would_stop_everything_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)
