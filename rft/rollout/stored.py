"""Groups as text and back: what a checkpoint keeps of rollouts that no step has trained on yet.

Not Parquet as in `rollouts/`, which is made for people and leaves things out, and not pickle, which runs what
it finds in a file. Tasks are kept as their place in the data, which is the same when a run goes on. The text
is JSON with NaN, as a log-probability may be unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from rft.rollout.collect import Asked, Member
from rft.secrets import hide
from rft.types import Group, Rollout, Score, Task

NumberOf = Callable[[Task], int]
TaskAt = Callable[[int], Task]

_ROLLOUT = TypeAdapter(Rollout)
_SCORE = TypeAdapter(Score)


def group_to_text(group: Group, number_of: NumberOf) -> str:
    """A finished group. What an environment left behind is kept as JSON can hold it, without secrets."""
    members = [_member_to_json(member) for member in zip(group.rollouts, group.scores, strict=True)]
    return json.dumps({"id": group.id, "task": number_of(group.task), "members": members})


def group_from_text(text: str, task_at: TaskAt) -> Group:
    """The reverse of `group_to_text`."""
    raw = json.loads(text)
    task = task_at(raw["task"])
    members = [_member_from_json(member, task) for member in raw["members"]]
    return Group(raw["id"], task, [rollout for rollout, _ in members], [score for _, score in members])


def asked_to_text(asked: Asked, number_of: NumberOf) -> str:
    """A group that was cut off, with its finished members."""
    done = {index: _member_to_json(member) for index, member in asked.done.items()}
    raw = {"number": asked.number, "task": number_of(asked.task), "seed_parts": asked.seed_parts}
    return json.dumps({**raw, "done": done})


def asked_from_text(text: str, task_at: TaskAt) -> Asked:
    """The reverse of `asked_to_text`."""
    raw = json.loads(text)
    task = task_at(raw["task"])
    done = {int(index): _member_from_json(member, task) for index, member in raw["done"].items()}
    return Asked(raw["number"], task, tuple(raw["seed_parts"]), done)


def _member_to_json(member: Member) -> dict[str, Any]:
    rollout, score = member
    plain = _ROLLOUT.dump_python(rollout, mode="json", exclude={"task"}, fallback=str)
    plain["env"] = json.loads(hide(json.dumps(plain["env"])))  # an environment may have put credentials there
    return {"rollout": plain, "score": _SCORE.dump_python(score, mode="json")}


def _member_from_json(raw: dict[str, Any], task: Task) -> Member:
    return _ROLLOUT.validate_python({**raw["rollout"], "task": task}), _SCORE.validate_python(raw["score"])
