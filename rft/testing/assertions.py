"""What one wants to say about an evaluator in a test, each in one line that explains itself when it fails.

They score as training does, so a failed evaluation has no number: it fails `assert_ranks` and `assert_range`
instead of passing as a zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rft.errors import UserError
from rft.evaluator import Case, Evaluator
from rft.types import Message, Rollout, Score, Task

Prompt = str | Sequence[Message | Mapping[str, Any]]

_LONGEST = 160


def assert_ranks(
    evaluator: Evaluator,
    prompt: Prompt,
    better: str | Sequence[str],
    worse: str | Sequence[str],
    *,
    margin: float = 0.0,
    reference: Any = None,
    **fields: Any,
) -> None:
    """Every better answer scores higher than every worse one, by more than `margin`.

    All answers are scored together, as answers to one prompt; so it holds for evaluators that compare answers
    with each other too. `reference` and `fields` are what a row of data would hold.
    """
    __tracebackhide__ = True
    good, bad = _texts(better), _texts(worse)
    scores = score_texts(evaluator, prompt, [*good, *bad], reference, fields)
    lines = [f"{side}  {told(text, score)}" for side, text, score in _sided(good, bad, scores)]
    unscored = [score for score in scores if not score.ok]
    if unscored:
        raise AssertionError(
            _fail(evaluator, f"{len(unscored)} of {len(scores)} answers have no score", lines)
        )
    lowest, highest = min(map(float, scores[: len(good)])), max(map(float, scores[len(good) :]))
    if not lowest > highest + margin:
        by = f" by more than {margin:g}" if margin else ""
        said = f"a better answer scores {lowest:g}, a worse one {highest:g}; the better must be higher{by}"
        raise AssertionError(_fail(evaluator, said, lines))


def assert_range(
    evaluator: Evaluator,
    prompt: Prompt,
    completion: str | Sequence[str],
    low: float,
    high: float,
    *,
    reference: Any = None,
    **fields: Any,
) -> None:
    """Each completion scores from `low` to `high`, both included."""
    __tracebackhide__ = True
    texts = _texts(completion)
    scores = score_texts(evaluator, prompt, texts, reference, fields)
    wrong = [
        told(text, score)
        for text, score in zip(texts, scores, strict=True)
        if not Case("", text, (low, high)).holds(score)
    ]
    if wrong:
        raise AssertionError(_fail(evaluator, f"not within [{low:g}, {high:g}]", wrong))


def assert_unscored(
    evaluator: Evaluator,
    prompt: Prompt,
    completion: str | Sequence[str],
    *,
    kind: str | None = None,
    reference: Any = None,
    **fields: Any,
) -> None:
    """Each completion is left without a number: failed, skipped or not applicable.

    Args:
        kind: the failure kind it must have ("timeout", "server", ...), or the status "skipped" or
            "not_applicable"; any when None.
    """
    __tracebackhide__ = True
    texts = _texts(completion)
    scores = score_texts(evaluator, prompt, texts, reference, fields)
    wrong = [
        told(text, score)
        for text, score in zip(texts, scores, strict=True)
        if score.ok or kind not in (None, score.status, score.failure.kind if score.failure else None)
    ]
    if wrong:
        raise AssertionError(_fail(evaluator, f"expected no number{f' ({kind})' if kind else ''}", wrong))


def score_texts(
    evaluator: Evaluator, prompt: Prompt, texts: Sequence[str], reference: Any, fields: Mapping[str, Any]
) -> list[Score]:
    """The scores of texts as answers to one prompt. Raises UserError when a required field is not given."""
    from rft.scoring.groups import score_groups

    given = {name for name, value in {**fields, "reference": reference}.items() if value is not None}
    if missing := sorted(evaluator.requires - given):
        raise UserError(
            f"evaluator {evaluator.name} needs {', '.join(missing)}: pass {missing[0]}=... to the assertion"
        )
    said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = tuple(one if isinstance(one, Message) else Message.from_dict(one) for one in said)
    task = Task("test", messages, reference, fields)
    rollouts = [
        Rollout(f"test/{index}", "test", task, (*messages, Message("assistant", text)))
        for index, text in enumerate(texts)
    ]
    (group,) = score_groups(evaluator, rollouts)
    return list(group.scores)


def told(text: str, score: Score) -> str:
    """An answer with its score, on one line: `0.5  'Paris, I think'  (right, with 2 words too many)`."""
    shown = repr(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
    if not score.ok:
        return f"none  {shown}  ({score.explain()})"
    return f"{float(score):<4g}  {shown}" + (f"  ({score.reason})" if score.reason else "")


def _texts(texts: str | Sequence[str]) -> list[str]:
    found = [texts] if isinstance(texts, str) else list(texts)
    if not found:
        raise ValueError("an assertion about answers needs at least one answer, got an empty list")
    return found


def _sided(good: list[str], bad: list[str], scores: list[Score]) -> list[tuple[str, str, Score]]:
    sides = ["better"] * len(good) + ["worse "] * len(bad)
    return list(zip(sides, [*good, *bad], scores, strict=True))


def _fail(evaluator: Evaluator, said: str, lines: Sequence[str]) -> str:
    return "\n  ".join([f"{evaluator.name}: {said}", *lines])
