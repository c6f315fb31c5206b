"""The evaluator at work in a run: its cache and journal, what it may cost, the base weights it may ask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rft import background
from rft.chat import WantsBase
from rft.errors import UserError
from rft.evaluator import Evaluator
from rft.http.evaluator import RUN_VARIABLE
from rft.recipe.schema import Recipe
from rft.runs.folder import RunFolder
from rft.runs.view import View
from rft.scoring.cache import ScoreCache
from rft.scoring.journal import Journal
from rft.scoring.runner import ScoringRunner
from rft.scoring.supervision import reporter


def scoring(
    evaluator: Evaluator, recipe: Recipe, view: View, run: RunFolder, stack: ExitStack
) -> ScoringRunner:
    """The recipe's evaluator at work until the stack is left, with what is left for it to spend."""
    cache = None
    if recipe.scoring.cache is not None:
        path = run.scores_path if recipe.scoring.cache == "run" else _user_cache()
        cache = ScoreCache(path, view.note)
        stack.callback(cache.close)
    os.environ[RUN_VARIABLE] = run.id
    max_usd = recipe.scoring.max_usd or evaluator.limits.max_usd
    if max_usd is not None:
        max_usd = max(0.0, max_usd - spent_usd(run))
    journal = Journal(run.journal_path, view.note)
    stack.callback(journal.close)
    surroundings = {"on_event": reporter(run.event, view.note), "cache": cache, "journal": journal}
    return score_with(evaluator, stack, **surroundings, max_usd=max_usd)


def spent_usd(run: RunFolder) -> float:
    """Dollars that a run which goes on has spent already."""
    return float(next((one["cost/usd"] for one in reversed(run.metrics()) if "cost/usd" in one), 0.0))


def _user_cache() -> Path:
    return Path(os.environ.get("RFT_CACHE") or "~/.cache/rft").expanduser() / "scores.sqlite"


def score_with(evaluator: Evaluator, stack: ExitStack, **surroundings: Any) -> ScoringRunner:
    """The evaluator at work, until the stack is left; `surroundings` as for `ScoringRunner`."""
    runner = ScoringRunner(evaluator, **surroundings)
    background.run(runner.setup())
    stack.callback(lambda: background.run(runner.close()))
    return runner


def name_base(recipe: Recipe, judges: Sequence[WantsBase]) -> None:
    """Tells judges which weights they ask. Raises UserError where training would change those."""
    if judges and recipe.model.adapter is None:
        raise UserError(
            "evaluator: a judge on engine: base needs weights that stay as they are, and full fine-tuning "
            "changes all of them; train an adapter (model.adapter), or give the judge url and model of an "
            "endpoint"
        )
    for judge in judges:
        judge.base_model = recipe.model.source
