"""Procedural puzzles, judged by the generator that made them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from rft.errors import EvaluatorError, UserError
from rft.evaluator import Case, Evaluator, Limits
from rft.types import Rollout, Score

_ENTRY = {"question": "Spell this word backward: sun", "answer": "nus", "metadata": {"word": "sun"}}
_FIELDS = {"reasoning_gym": "spell_backward", "entry": _ENTRY}


class ReasoningGym(Evaluator):
    """The score that the reasoning-gym data set gives its own entry's answer, often with partial credit.

    For tasks from `reasoning-gym:NAME`, which carry the data set's name and the entry. With `answer_tag:
    answer`, only what stands in the last <answer>...</answer> counts, and without one the score is 0.

    Cannot see: how the answer was found; and each data set's scorer has its own blind spots.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        answer_tag: str | None = None

    name = "reasoning_gym"
    requires = frozenset({"reasoning_gym", "entry"})
    limits = Limits(concurrency=4)
    blind_to = frozenset({"negated", "contradiction"})
    cases = (
        Case("Spell.", "nus", expect=1.0, fields=_FIELDS),
        Case("Spell.", "sun", expect=(0.0, 0.5), fields=_FIELDS),
        Case(
            "Spell.", "So: <answer>nus</answer>", expect=1.0, fields=_FIELDS, config={"answer_tag": "answer"}
        ),
        Case("Spell.", "nus", expect=0.0, fields=_FIELDS, config={"answer_tag": "answer"}),
    )

    def setup(self) -> None:  # type: ignore[override]  # a plain method is allowed
        try:
            import reasoning_gym  # noqa: F401  # only whether it is there
        except ImportError:
            raise UserError(
                "the evaluator reasoning_gym needs reasoning-gym: pip install 'rft-loop[envs]'"
            ) from None

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        entry: Mapping[str, Any] = rollout.task.metadata["entry"]
        score_answer = _scorer(rollout.task.metadata["reasoning_gym"])
        tag = self.config.answer_tag
        answer = rollout.text.strip() if tag is None else _tagged(rollout.text, tag)
        if answer is None:
            return Score(0.0, reason=f"no <{tag}>...</{tag}>")
        try:
            return Score(float(score_answer(answer, entry)))
        except Exception as error:
            _blame_gold(score_answer, entry)
            return Score(0.0, reason=f"unreadable answer ({type(error).__name__})")


@functools.cache
def _scorer(dataset: str) -> Callable[..., Any]:
    import reasoning_gym

    try:
        scorer: Callable[..., Any] = reasoning_gym.get_score_answer_fn(dataset)
    except (ValueError, AssertionError) as error:
        raise EvaluatorError("bad_response", f"reasoning-gym cannot score {dataset!r}: {error}") from None
    return scorer


def _tagged(text: str, tag: str) -> str | None:
    """What stands in the last complete <tag>...</tag>; found from the end, in linear time."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end].strip() if 0 <= start < end else None


def _blame_gold(score_answer: Callable[..., Any], entry: Mapping[str, Any]) -> None:
    """Raises EvaluatorError when not even the right answer can be scored: no fault of the model's."""
    try:
        score_answer(entry["answer"], entry)
    except Exception as error:
        told = f"the entry cannot be scored: {type(error).__name__}: {error}"
        raise EvaluatorError("bad_response", told) from error
