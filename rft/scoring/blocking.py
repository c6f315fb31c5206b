"""`rft.score`: one evaluation, blocking, for notebooks, tests and a first look at an evaluator.

It takes the same path as training does (limits, retries, attribution), so what it shows is what will happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rft import background
from rft.errors import UserError
from rft.evaluator import Evaluator, FunctionEvaluator
from rft.scoring.runner import ScoringRunner
from rft.types import Message, Rollout, Score, Task


def score(
    evaluator: Evaluator | Callable[..., Any],
    *,
    prompt: str | Sequence[Message | Mapping[str, Any]],
    completion: str,
    reference: Any = None,
    **fields: Any,
) -> Score:
    """Scores one completion and waits for the verdict; works inside a running event loop too.

    Args:
        evaluator: an evaluator, or a plain function whose arguments are injected by name.
        prompt: a user message, or a whole conversation.
        reference, fields: what the evaluator may compare with, as a row of data would hold it.

    A failed evaluation comes back as a `Score` without a number. Raises UserError when a field that the
    evaluator requires is not given.

    >>> score(lambda text, reference: text == reference, prompt="2+2?", completion="4", reference="4").value
    1.0
    """
    if not isinstance(evaluator, Evaluator) and callable(evaluator) and not isinstance(evaluator, type):
        evaluator = FunctionEvaluator(evaluator)
    runner = ScoringRunner(evaluator)  # type: ignore[arg-type]  # refuses what is not an evaluator, in words
    given = {name for name, value in {**fields, "reference": reference}.items() if value is not None}
    if missing := sorted(runner.evaluator.requires - given):
        raise UserError(
            f"evaluator {runner.name} needs {', '.join(missing)}: pass {missing[0]}=... to rft.score"
        )
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
    rollout = Rollout("score/0", "score", task, (*messages, Message("assistant", completion)))
    return background.run(_once(runner, rollout))


async def _once(runner: ScoringRunner, rollout: Rollout) -> Score:
    async with runner:
        return await runner.score(rollout)
