"""Who judges, and how the judge is looked after."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rft.recipe.schema.section import Section, Use


class EvaluatorUse(Use):
    """An evaluator by name, and whether it must have been checked."""

    require_check: Literal["pass", "warn", "none"] = "warn"
    """What `rft train` asks of `rft evaluator check`: `pass` refuses an evaluator without a report that
    passed for this very fingerprint, `warn` says so and goes on."""


class ScoringSpec(Section):
    """How the evaluator is looked after while the run goes on."""

    cache: Literal["run", "user"] | None = "run"
    """Verdicts of deterministic evaluators on identical rollouts: kept in the run's folder, or in the user's
    cache for all runs; null asks each time."""
    max_usd: PositiveFloat | None = None
    """Dollars that evaluations may cost; the evaluator's own limit when unset. A run that would cost more is
    refused at its start."""
    canaries_every: NonNegativeInt = 10
    """Score the evaluator's golden cases again every so many steps; 0 only at the start."""
    canaries_bad: PositiveInt = 2
    """Stop when golden cases did not hold so many times running."""


class EvalSpec(Section):
    """Held-out evaluation before, during and after training."""

    every: NonNegativeInt = 10
    """Steps between evaluations; 0 only before and after."""
    tasks: PositiveInt = 64
    """Held-out tasks judged each time; at most a fifth of the data when set aside from `data.train`."""
    samples: PositiveInt = 1
    """Completions per task."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""
