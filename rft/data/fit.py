"""Prompts that leave room for an answer, and an account of those that do not. Nothing is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rft.errors import DataError
from rft.types import Task


@dataclass(frozen=True)
class Dropped:
    """The prompts that did not fit.

    >>> print(Dropped(count=2, total=10, longest=900, example_id="a", max_prompt_tokens=512))
    2 of 10 prompts have more than 512 tokens and are left out; the longest has 900 (task a)
    """

    count: int
    total: int
    longest: int
    """Tokens in the longest prompt of all, dropped or not."""
    example_id: str | None
    """The task with the longest dropped prompt; None when all fit."""
    max_prompt_tokens: int
    what: str = "prompts"

    def __str__(self) -> str:
        if not self.count:
            return f"all {self.total} {self.what} fit; the longest has {self.longest} tokens"
        return (
            f"{self.count} of {self.total} {self.what} have more than {self.max_prompt_tokens} tokens and "
            f"are left out; the longest has {self.longest} (task {self.example_id})"
        )


def fit_prompts(
    tasks: Sequence[Task],
    count_tokens: Callable[[Task], int],
    max_prompt_tokens: int,
    what: str = "prompts",
) -> tuple[list[Task], Dropped]:
    """Tasks whose prompt has at most `max_prompt_tokens` tokens, in their order, and the account of the rest.

    Args:
        count_tokens: tokens of a task's prompt as the engine will see it, chat template included.
        what: is counted, in words; "examples" are prompts with their answers.

    Raises DataError when none fits.
    """
    lengths = [count_tokens(task) for task in tasks]
    fitting = [task for task, length in zip(tasks, lengths, strict=True) if length <= max_prompt_tokens]
    longest = max(range(len(tasks)), key=lengths.__getitem__, default=None)
    dropped = Dropped(
        count=len(tasks) - len(fitting),
        total=len(tasks),
        longest=0 if longest is None else lengths[longest],
        example_id=None if longest is None or len(fitting) == len(tasks) else tasks[longest].id,
        max_prompt_tokens=max_prompt_tokens,
        what=what,
    )
    if not fitting:
        told = f"none of {len(tasks)} {what} fits into {max_prompt_tokens} tokens; the shortest has "
        raise DataError(
            f"{told}{min(lengths, default=0)}; raise engine.max_model_len or lower rollout.max_new_tokens"
        )
    return fitting, dropped
