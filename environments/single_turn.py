"""One question, one answer: the first environment, and the default."""

from __future__ import annotations

from rft.environment import Environment, Observation, Step
from rft.types import Message, Task


class SingleTurn(Environment):
    """Shows the task's prompt and ends after the first answer. Gives no reward of its own."""

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return Observation(task.prompt)

    async def step(self, action: Message) -> Step:
        return Step(done=True)
