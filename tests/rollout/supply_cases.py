"""A supply of groups over a scripted engine: tasks t0, t1, ..., graded by name."""

from __future__ import annotations

from typing import Any

from rft.data.order import TaskOrder
from rft.engine.scripted import ScriptedEngine
from rft.environment import Environment, Observation, Step
from rft.models.tiny import tiny_tokenizer
from rft.recipe.schema import RolloutSpec
from rft.rollout.conversation import ChatTemplate
from rft.rollout.play import Player
from rft.rollout.selection import Selection
from rft.types import Group, Message, Rollout, Score, Task

TOKENIZER = tiny_tokenizer()
SEED = 7


class OneQuestion(Environment):
    async def reset(self, task: Task, *, seed: int) -> Observation:
        return Observation(task.prompt)

    async def step(self, action: Message) -> Step:
        return Step(done=True)


class Grader:
    """Rewards by task: all 0.5 where the task is constant, else 0 and 1 by turns; none where it is masked."""

    def __init__(self, constant: set[str] | None = None, masked: set[str] | None = None) -> None:
        self.constant, self.masked = constant or set(), masked or set()
        self.scored: list[str] = []

    async def ready(self) -> None: ...

    async def score(self, rollout: Rollout) -> Score:
        self.scored.append(rollout.id)
        if rollout.task.id in self.masked:
            return Score.failed("server", "HTTP 503")
        if rollout.task.id in self.constant:
            return Score(0.5)
        return Score(float(rollout.id.endswith("1")))

    async def settle(self, rollouts: Any, scores: Any) -> Any:
        return scores


def tasks(n: int) -> list[Task]:
    return [Task(f"t{index}", (Message("user", f"t{index}"),)) for index in range(n)]


def teaches(group: Group) -> bool:
    return len({float(score) for score in group.scores if score.ok}) > 1


def make(
    grader: Grader,
    *,
    engine: ScriptedEngine | None = None,
    groups: int = 3,
    num_tasks: int = 12,
    notes: list[str] | None = None,
    **spec: Any,
) -> Selection:
    made = RolloutSpec(group_size=2, **spec)
    player = Player(
        engine or ScriptedEngine(TOKENIZER, lambda *_: "x"),
        ChatTemplate(TOKENIZER),
        OneQuestion,
        made,
        max_total_tokens=1000,
    )
    return Selection(
        player,
        grader,
        TaskOrder(tasks(num_tasks), seed=0, shuffle=False),
        made,
        groups_per_step=groups,
        seed=SEED,
        teaches=teaches,
        note=(notes if notes is not None else []).append,
    )


def names(groups: Any) -> list[str]:
    return [group.task.id for group in groups]
