"""`rft.score`: one prompt's evaluation, blocking, for notebooks, tests and a first look at an evaluator.

It takes the same path as training does (limits, retries, attribution), so what it shows is what will happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from rft import background
from rft.errors import UserError
from rft.evaluator import Evaluator, FunctionEvaluator, GroupEvaluator
from rft.scoring.runner import ScoringRunner
from rft.types import Message, Rollout, Score, Task

Prompt = str | Sequence[Message | Mapping[str, Any]]


@overload
def score(
    evaluator: Evaluator | Callable[..., Any],
    *,
    prompt: Prompt,
    completion: str,
    reference: Any = None,
    **fields: Any,
) -> Score: ...
@overload
def score(
    evaluator: Evaluator | Callable[..., Any],
    *,
    prompt: Prompt,
    completions: Sequence[str],
    reference: Any = None,
    **fields: Any,
) -> list[Score]: ...
def score(
    evaluator: Evaluator | Callable[..., Any],
    *,
    prompt: Prompt,
    completion: str | None = None,
    completions: Sequence[str] | None = None,
    reference: Any = None,
    **fields: Any,
) -> Score | list[Score]:
    """Scores one completion, or several as one group, and waits; works inside a running event loop too.

    Args:
        evaluator: an evaluator, or a plain function whose arguments are injected by name.
        prompt: a user message, or a whole conversation.
        completion: the answer; the result is its score.
        completions: answers that are judged together; the result is a list of their scores.
        reference, fields: what the evaluator may compare with, as a row of data would hold it.

    A failed evaluation comes back as a `Score` without a number. Raises UserError when a field that the
    evaluator requires is not given, and for a single completion where completions are compared.

    >>> score(lambda text, reference: text == reference, prompt="2+2?", completion="4", reference="4").value
    1.0
    >>> [s.value for s in score(lambda text: len(text) / 4, prompt="?", completions=["no", "yes"])]
    [0.5, 0.75]
    """
    if (completion is None) == (completions is None):
        raise UserError("rft.score takes either completion=... or completions=[...]")
    if not isinstance(evaluator, Evaluator) and callable(evaluator) and not isinstance(evaluator, type):
        evaluator = FunctionEvaluator(evaluator)
    runner = ScoringRunner(evaluator)  # type: ignore[arg-type]  # refuses what is not an evaluator, in words
    given = {name for name, value in {**fields, "reference": reference}.items() if value is not None}
    if missing := sorted(runner.evaluator.requires - given):
        raise UserError(
            f"evaluator {runner.name} needs {', '.join(missing)}: pass {missing[0]}=... to rft.score"
        )
    if completions is None and isinstance(runner.evaluator, GroupEvaluator):
        raise UserError(f"evaluator {runner.name} compares answers: pass completions=[...] to rft.score")
    if asyncio._get_running_loop() is background.loop():
        raise UserError(
            "rft.score would block the loop that runs it; use a plain `def`, or execution='thread'"
        )
    messages = (
        (Message("user", prompt),)
        if isinstance(prompt, str)
        else tuple(m if isinstance(m, Message) else Message.from_dict(m) for m in prompt)
    )
    task = Task("score", messages, reference, fields)
    texts = [completion or ""] if completions is None else completions
    rollouts = [
        Rollout(f"score/{i}", "score", task, (*messages, Message("assistant", text)))
        for i, text in enumerate(texts)
    ]
    scores = background.run(_together(runner, rollouts))
    return scores[0] if completions is None else scores


async def _together(runner: ScoringRunner, rollouts: Sequence[Rollout]) -> list[Score]:
    async with runner:
        scores = await asyncio.gather(*map(runner.score, rollouts))
        return await runner.settle(rollouts, scores)
