"""Formulas of multi graders: what arithmetic comes out as, and that nothing else comes through."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft.adapters._formula import to_python


def value(text, **names):
    """The library only writes a formula down; here it is run, to be compared with what is meant."""
    functions = {name: getattr(math, name) for name in ("floor", "ceil", "exp", "sqrt", "log")}
    return eval(to_python(text, list(names)).source, {**functions, **names})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(a + b) / 2", 0.5),
        ("0.5 * a + 0.5*b", 0.5),
        ("2 ^ 3 + 1", 9),  # not 2 ^ (3 + 1)
        ("2 * 3 ^ 2", 18),
        ("2 ^ 3 ^ 2", 512),
        ("-2 ^ 2", -4),
        ("max(a, b, 0.3) - min(a, b)", 1),
        ("abs(b - a) + floor(1.7) + ceil(0.2)", 3),
        ("exp(0) + sqrt(4) + log(1)", 3),
    ],
)
def test_arithmetic_means_what_it_means_on_paper(text, expected):
    assert value(text, a=1.0, b=0.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not arithmetic"),
        ("a +", "is not arithmetic"),
        ("c", "c is no grader; there are a, b"),
        ("__import__('os')", "functions are min"),
        ("a.__class__", "is not arithmetic"),
        ("(lambda: 1)()", "functions are min"),
        ("[a, b][0]", "is not arithmetic"),
        ("a if b else 0", "is not arithmetic"),
        ("a and b", "is not arithmetic"),
        ("a < b", "is not arithmetic"),
        ("a % b", "operators are"),
        ("a // b", "operators are"),
        ("a | b", "operators are"),
        ("not a", "operators are"),
        ("'a' * 9", "is no number"),
        ("True", "is no number"),
        ("1j", "is no number"),
        ("min(*a)", "functions are min"),
        ("min(a, key=b)", "functions are min"),
        ("round(a)", "functions are min"),
        ("min", "min is no grader"),
        ("(a := 1)", "is not arithmetic"),
        ("f'{a}'", "is not arithmetic"),
        ("a\n+b", None),
        ("(" * 5000 + "a" + ")" * 5000, "at most 2000"),
        ("-" * 1999 + "a", None),
    ],
)
def test_anything_else_is_refused(text, why):
    if why is None:  # odd, but arithmetic, or too deep to read: refused in words or taken, never a crash
        try:
            to_python(text, ["a", "b"])
        except ValueError as error:
            assert "not arithmetic" in str(error)
        return
    with pytest.raises(ValueError, match=r".*") as caught:
        to_python(text, ["a", "b"])
    assert why in str(caught.value)


@given(st.text(max_size=60))
def test_no_text_makes_it_do_anything_but_refuse_or_translate(text):
    try:
        made = to_python(text, ["a", "b"])
    except ValueError:
        return
    assert set(made.names) <= {"a", "b"}
