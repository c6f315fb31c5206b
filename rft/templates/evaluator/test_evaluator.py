"""The evaluator, tested like any code that matters: the model will do exactly what it pays for."""

import pytest
from {{name}} import {{name}}

from rft import score


@pytest.mark.parametrize("case", {{name}}.cases, ids=lambda case: case.completion[:20])
def test_golden_cases(case):
    got = score({{name}}, prompt=case.prompt, completion=case.completion, reference=case.reference)
    assert case.holds(got), got
