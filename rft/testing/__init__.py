"""For tests of evaluators and of models: assertions, a fake API, and a pytest plugin that brings both.

    import pytest
    from rft.testing import assert_ranks

    pytestmark = pytest.mark.rft_evaluator("./evaluator.py:near")    # its golden cases become tests

    def test_close_is_better(evaluator):
        assert_ranks(evaluator, "How many days has February 2024?", "29", "12", reference="29")

The plugin is loaded by pytest wherever rft is installed (`-p no:rft` leaves it out). It adds the fixtures
`evaluator`, `fake_api` and `rft_answers`, and the marks `rft_evaluator` and `rft_eval`.
"""

from rft.testing.assertions import assert_range, assert_ranks, assert_unscored
from rft.testing.fake_api import FAULTS, FakeAPI, Reply, Request

__all__ = [
    "FAULTS",
    "FakeAPI",
    "Reply",
    "Request",
    "assert_range",
    "assert_ranks",
    "assert_unscored",
]
