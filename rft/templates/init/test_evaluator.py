"""The evaluator, tested like any code that matters: the model will do exactly what it pays for."""

import pytest
from evaluator import brief_and_right

from rft import score


@pytest.mark.parametrize("case", brief_and_right.cases, ids=lambda case: case.completion[:20])
def test_golden_cases(case):
    got = score(brief_and_right, prompt=case.prompt, completion=case.completion, reference=case.reference)
    assert case.holds(got), got


def test_fewer_words_are_better():
    def paid(completion):
        return float(
            score(brief_and_right, prompt="Capital of Japan?", completion=completion, reference="Tokyo")
        )

    assert (
        paid("Tokyo")
        > paid("It is Tokyo")
        > paid("I would say it is Tokyo")
        > paid("I would say it is Kyoto")
    )
