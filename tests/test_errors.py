"""The error tree: who exits with which code, and what a message holds."""

from __future__ import annotations

import inspect

import pytest

from rft import errors
from rft.errors import EvaluatorError, Problem, RecipeError, RftError, RunStopped, UserError


def test_wrong_input_exits_with_2_and_everything_else_with_1():
    for error in vars(errors).values():
        if inspect.isclass(error) and issubclass(error, RftError):
            assert error.exit_code == (2 if issubclass(error, UserError) else 1), error


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    drawn = {word for word in (errors.__doc__ or "").split() if word.isidentifier()}
    defined = {name for name, e in vars(errors).items() if inspect.isclass(e) and issubclass(e, RftError)}
    assert defined <= drawn


def test_a_recipe_error_tells_all_mistakes_at_once():
    error = RecipeError("r.yaml", [Problem("a", "wrong", line=1), Problem("b", "worse", got="7")])
    assert str(error) == "r.yaml: 2 mistakes\n  line 1, a: wrong\n  b: worse (got 7)"
    assert str(RecipeError("r.yaml", [Problem("a", "wrong")])).startswith("r.yaml: 1 mistake\n")


def test_an_evaluator_error_carries_what_the_runner_needs():
    error = EvaluatorError("rate_limited", "HTTP 429", retryable=True)
    assert (error.kind, error.detail, error.retryable) == ("rate_limited", "HTTP 429", True)
    assert str(error) == "rate_limited: HTTP 429"


def test_a_stopped_run_is_not_the_users_wrong_input():
    with pytest.raises(RftError):
        raise RunStopped("too many failures")
    assert not issubclass(RunStopped, UserError)
