"""Holds a model to a score: `@pytest.mark.rft_eval`, on the code behind `rft eval`.

    @pytest.mark.rft_eval(model="runs/brief", recipe="recipe.yaml", min_score=0.6)
    @pytest.mark.rft_eval(model="http://127.0.0.1:8000/v1#brief", data="heldout.jsonl", evaluator="exact",
                          min_score=0.6, bound="low")

What is measured is a mean over a sample of tasks, so it comes with an interval. By default the mean must
reach `min_score`, as for `rft eval --min-score`; with `bound="low"` the interval's lower end must, so that
luck alone seldom passes. Tests with equal marks share one measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from rft.errors import RftError

if TYPE_CHECKING:
    from rft.recipe.schema import Recipe
    from rft.runs.comparison import Answers, Comparison

MARK = "rft_eval"

_WORST = 5
_ALL = 1_000_000
_DONE = pytest.StashKey[dict[str, "Measured"]]()


@dataclass(frozen=True)
class Measured:
    """A model's answers and, if they are not good enough, why."""

    answers: Answers
    missed: str | None


@dataclass(frozen=True)
class Asked:
    """The arguments of the mark.

    Either `recipe` says what is asked and who judges, or `data` and `evaluator` do.
    """

    model: str
    """A run, a checkpoint, a model source, or an endpoint `http://host/v1#name`."""
    recipe: str | None = None
    """A recipe's file, or the name of a shipped one."""
    data: Any = None
    """Tasks to ask, as a recipe's `data.eval`."""
    evaluator: Any = None
    """As a recipe's `evaluator`."""
    min_score: float | None = None
    bound: Literal["mean", "low"] = "mean"
    """What must reach `min_score`: the mean, or the lower end of its 95 % interval."""
    tasks: int | None = None
    samples: int | None = None
    """Answers a task; the recipe's, else 1."""
    temperature: float | None = None
    """The recipe's, else 0 for one answer a task and 1 for several."""
    max_new_tokens: int | None = None
    system: str | None = None
    api_key_env: str | None = None
    concurrency: int = 16
    output_dir: str = "runs"

    def __post_init__(self) -> None:
        if self.recipe is not None and (self.data, self.evaluator, self.system) != (None, None, None):
            raise TypeError("data, evaluator and system are the recipe's; leave them out beside recipe")
        if self.recipe is None and None in (self.data, self.evaluator):
            raise TypeError("give a recipe, or both data and evaluator")
        if not isinstance(self.evaluator, str | Mapping | None):
            raise TypeError(f"evaluator is named as in a recipe, got {self.evaluator!r}")
        if self.bound not in ("mean", "low"):
            raise TypeError(f'bound must be "mean" or "low", got {self.bound!r}')


def measured(item: pytest.Item) -> Measured | None:
    """What the item's mark asks for, measured once for all items with an equal mark; None without a mark.

    A model or evaluator that cannot be measured fails the test in one line.
    """
    mark = item.get_closest_marker(MARK)
    if mark is None:
        return None
    try:
        asked = Asked(*mark.args, **mark.kwargs)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(Asked))
        raise pytest.fail.Exception(f"{MARK} ({known}): {error}", pytrace=False) from None
    done = item.session.stash.setdefault(_DONE, {})
    key = repr((item.path.parent, asked))
    if key not in done:
        try:
            done[key] = _measure(asked, item.path.parent)
        except RftError as error:
            said = f"{MARK}: {asked.model} could not be measured: {error}"
            raise pytest.fail.Exception(said, pytrace=False) from None
    return done[key]


def _measure(asked: Asked, folder: Path) -> Measured:
    from rft.evaluate import Goals, evaluate
    from rft.runs.view import View

    found = evaluate(
        _recipe(asked, folder),
        [_place(asked.model, folder)],
        view=View(1, quiet=True),
        tasks=asked.tasks,
        goals=Goals(min_score=asked.min_score),
        api_key_env=asked.api_key_env,
        concurrency=asked.concurrency,
        output_dir=_place(asked.output_dir, folder),
    )
    return Measured(found.results[0], _missed(found, asked))


def _recipe(asked: Asked, folder: Path) -> Recipe:
    from rft.recipe.load import load_recipe, recipe_from

    if asked.recipe is not None:
        keys = {
            "eval.samples": asked.samples,
            "eval.temperature": asked.temperature,
            "rollout.max_new_tokens": asked.max_new_tokens,
        }
        given = [f"{key}={value}" for key, value in keys.items() if value is not None]
        return load_recipe(_place(asked.recipe, folder), given)
    samples = asked.samples or 1
    temperature = asked.temperature if asked.temperature is not None else float(samples > 1)
    data = {"source": asked.data} if isinstance(asked.data, str) else dict(asked.data)
    if asked.system is not None:
        data["system"] = asked.system
    values = {
        "name": MARK,
        "model": asked.model,
        "data": {"train": data, "eval": data},
        "evaluator": asked.evaluator,
        "eval": {"samples": samples, "temperature": temperature, "tasks": asked.tasks or _ALL},
        "rollout": {} if asked.max_new_tokens is None else {"max_new_tokens": asked.max_new_tokens},
    }
    return recipe_from(values, source=MARK, folder=folder)


def _place(name: str, folder: Path) -> str:
    """A path beside the test file, if there is one of that name; else the name."""
    return str(folder / name) if (folder / name).exists() else name


def _missed(found: Comparison, asked: Asked) -> str | None:
    """Why the model does not hold, with its worst answers; None when it does."""
    (answers,) = found.results
    reasons = [verdict.reason for verdict in found.verdicts if not verdict.passed]
    estimate = answers.estimate
    wanted = asked.min_score if asked.bound == "low" else None
    if not reasons and wanted is not None and estimate is not None and estimate.low < wanted:
        reasons.append(
            f"mean {estimate}: the lower end of the interval is below {wanted:g}; "
            "the model may still be good enough, take more tasks to tell"
        )
    if not reasons:
        return None
    judged = f"{asked.model}, judged by {found.evaluator} on {len(answers.means)} tasks"
    return "\n".join([f"{judged}: {'; '.join(reasons)}", *_failures(answers), *_worst(answers)])


def _failures(answers: Answers) -> list[str]:
    counts = ", ".join(f"{kind} {count}" for kind, count in answers.failures.most_common())
    return [f"failed evaluations, which count for nothing: {counts}"] if counts else []


def _worst(answers: Answers) -> list[str]:
    from rft.testing.assertions import told

    scored = [
        (float(score), group.task, rollout.text, score)
        for group in answers.groups
        for rollout, score in zip(group.rollouts, group.scores, strict=True)
        if score.ok
    ]
    worst = sorted(scored, key=lambda one: one[0])[:_WORST]
    asked = {task.id: task.messages[-1].content for _, task, _, _ in worst}
    lines = [
        f"  {told(text, score)}\n    asked: {_cut(asked[task.id])!r}"
        + (f", reference: {_cut(str(task.reference))!r}" if task.reference is not None else "")
        for _, task, text, score in worst
    ]
    return ["worst answers:", *lines] if lines else []


def _cut(text: str, longest: int = 120) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
