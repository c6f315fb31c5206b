"""Any evaluator as a reward function for TRL's trainers.

    GRPOTrainer(model=..., reward_funcs=as_trl_reward(MyEvaluator()), ...)

It has no number for a failed evaluation, so it returns None, never 0.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rft import background
from rft.errors import UserError
from rft.evaluator import Evaluator
from rft.scoring.runner import ScoringRunner
from rft.types import Message, Rollout, Score, Task, Turn

_TRLS_OWN = ("trainer_state", "log_extra", "log_metric", "environments")


def as_trl_reward(
    evaluator: Evaluator, *, reference: str = "reference", num_generations: int | None = None
) -> TRLReward:
    """A reward function for TRL's trainers (1.16) that scores with `evaluator`: limits, retries and all.

    Args:
        reference: the data's column that is the task's reference.
        num_generations: the trainer's. TRL does not tell a function which completions belong together;
            unset, neighbours with an equal prompt do.

    Cannot carry over: whether a completion was cut (`rollout.truncated` is False), and turns (all tokens
    count as one). On several GPUs a process may see part of a group, which an evaluator that compares then
    judges alone. Beside other reward functions, TRL's default sum takes None for 0: put everything into one
    evaluator (`weighted`), or set `multi_objective_aggregation="normalize_then_sum"`.
    """
    return TRLReward(evaluator, reference, num_generations)


class TRLReward:
    """What `as_trl_reward` returns. Scores on rft's background loop, so it works in any trainer."""

    def __init__(self, evaluator: Evaluator, reference: str, num_generations: int | None) -> None:
        self._runner = ScoringRunner(evaluator)
        self._reference = reference
        self._group_size = num_generations
        self._ready = False
        self.__name__ = self._runner.name

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward for each completion; None where there is no number.

        Raises UserError when the data lacks a column that the evaluator requires.
        """
        rows = [
            {name: values[i] for name, values in columns.items() if name not in _TRLS_OWN}
            for i in range(len(prompts))
        ]
        ids = completion_ids if completion_ids is not None else [()] * len(prompts)
        rollouts = []
        for first, last in self._groups(prompts):
            task = self._task(f"trl-{first}", prompts[first], rows[first])
            rollouts.append([_rollout(task, i, completions[i], ids[i]) for i in range(first, last)])
        scores = background.run(self._score(rollouts))
        if log_extra is not None:
            log_extra(f"{self.__name__}_reason", [_why(score) for score in scores])
        if log_metric is not None:
            log_metric(f"{self.__name__}/masked", sum(not score.ok for score in scores) / max(len(scores), 1))
        return [score.value for score in scores]

    def close(self) -> None:
        """Lets the evaluator free what it took. Not needed at the end of a process."""
        if self._ready:
            self._ready = False
            background.run(self._runner.close())

    async def _score(self, groups: Sequence[Sequence[Rollout]]) -> list[Score]:
        if not self._ready:
            await self._runner.setup()
            self._ready = True
        settled = await asyncio.gather(*map(self._score_group, groups))
        return [score for group in settled for score in group]

    async def _score_group(self, rollouts: Sequence[Rollout]) -> list[Score]:
        scores = await asyncio.gather(*map(self._runner.score, rollouts))
        return await self._runner.settle(rollouts, scores)

    def _groups(self, prompts: Sequence[Any]) -> list[tuple[int, int]]:
        """(first, one past the last) of each prompt's completions."""
        size = self._group_size or math.inf
        starts = [0]
        for i in range(1, len(prompts)):
            if i - starts[-1] >= size or (self._group_size is None and prompts[i] != prompts[i - 1]):
                starts.append(i)
        return list(zip(starts, [*starts[1:], len(prompts)], strict=True)) if prompts else []

    def _task(self, name: str, prompt: Any, row: Mapping[str, Any]) -> Task:
        text = prompt if isinstance(prompt, str) else tuple(Message.from_dict(m) for m in prompt)
        rest = {column: value for column, value in row.items() if column != self._reference}
        task = Task(name, text, row.get(self._reference), rest)
        missing = [
            field
            for field in sorted(self._runner.evaluator.requires)
            if (task.reference if field == "reference" else rest.get(field)) is None
        ]
        if missing:
            hint = " (reference= names the column)" if "reference" in missing else ""
            have = ", ".join(row) or "no columns"
            raise UserError(
                f"evaluator {self.__name__} needs {', '.join(missing)}; the data has {have}{hint}"
            )
        return task


def _rollout(task: Task, index: int, completion: Any, ids: Sequence[int]) -> Rollout:
    said = (
        (Message("assistant", completion),)
        if isinstance(completion, str)
        else tuple(Message.from_dict(message) for message in completion)
    )
    turn = Turn(context_ids=(), token_ids=tuple(ids), logprobs=(), finish_reason="stop")
    turns = (turn,) if ids else ()
    return Rollout(f"{task.id}/{index}", task.id, task, (*task.messages, *said), turns)


def _why(score: Score) -> str:
    return (score.reason or "") if score.ok else score.explain()
