"""The maths that a recipe brings along: credit and loss by import path, and weights that credit takes from
an evaluator. Looked at without torch; made when the parts are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.errors import Problem, RecipeError, ResolveError
from rft.evaluator import Evaluator
from rft.recipe.resolve import resolve_callable
from rft.recipe.schema import AlgorithmSpec
from rft.scoring.composite import Composite

if TYPE_CHECKING:
    from rft.learn.credit import Credit
    from rft.learn.loss import Surrogate


def wrong_formulas(
    algorithm: AlgorithmSpec, evaluator: Evaluator | None = None, base: Path | None = None
) -> Iterator[Problem]:
    """What is wrong with the functions an algorithm names, and with its credit for this evaluator.

    Args:
        evaluator: unset, when it is not known.
        base: see `rft.recipe.resolve.resolve_callable`.
    """
    for key, given, args in (
        ("advantage", ("batch",), algorithm.advantage_args),
        ("loss_type", ("inputs", "config"), algorithm.loss_args),
    ):
        name: str = getattr(algorithm, key)
        if ":" not in name:
            continue
        try:
            _fits(resolve_callable(name, base), given, args)
        except ResolveError as error:
            yield Problem(f"algorithm.{key}", str(error))
        except TypeError as error:
            arguments = ", ".join([*given, *(f"{argument}=..." for argument in args)])
            yield Problem(f"algorithm.{key}", f"{name!r} is called with ({arguments}): {error}")
    if algorithm.advantage == "max_rl" and evaluator is not None and evaluator.range[0] < 0:
        told = (
            f"max_rl needs rewards that are never negative; {evaluator.name} gives {evaluator.range[0]:g} up"
        )
        yield Problem("algorithm.advantage", told)


def credit_of(algorithm: AlgorithmSpec, evaluator: Evaluator | None) -> Credit | None:
    """What `assign_credit` is told beside the algorithm; None where that says it all.

    Raises RecipeError for what `wrong_formulas` finds.
    """
    if problems := list(wrong_formulas(algorithm, evaluator)):
        raise RecipeError("algorithm", problems)
    if ":" in algorithm.advantage:
        return partial(resolve_callable(algorithm.advantage), **algorithm.advantage_args)
    if algorithm.advantage == "gdpo" and isinstance(evaluator, Composite):
        from rft.learn.credit import gdpo_credit

        return partial(gdpo_credit, weights={name: part.weight for name, part in evaluator.parts.items()})
    return None


def loss_of(algorithm: AlgorithmSpec) -> Surrogate | None:
    """The function that `algorithm.loss_type` names by path, if it does. Raises ResolveError."""
    return resolve_callable(algorithm.loss_type) if ":" in algorithm.loss_type else None


def _fits(function: Callable[..., Any], given: tuple[str, ...], args: Mapping[str, Any]) -> None:
    """Raises TypeError when a call with these arguments cannot work."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # built in, or otherwise without one
        return
    signature.bind(*given, **args)
