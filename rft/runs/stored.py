"""Stored rollouts as groups again, so that an evaluator can be tried on what a model really said.

What evaluators see comes back: the task with all its fields, messages, environment, rewards, tokens and their
log-probabilities. What JSON could not hold (an object of the environment's, say) comes back as text.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rft.runs.rollouts import read_rollouts
from rft.types import Group, Message, Rollout, Score, Task, Turn


def read_groups(path: Path) -> list[Group]:
    """The groups of one file, with the scores they were given. Raises RunError."""
    by_id: dict[str, list[Mapping[str, Any]]] = {}
    for row in read_rollouts(path):
        by_id.setdefault(row["group_id"], []).append(row)
    return [_group(group_id, rows) for group_id, rows in by_id.items()]


def _group(group_id: str, rows: Sequence[Mapping[str, Any]]) -> Group:
    task = _task(rows[0])
    return Group(group_id, task, [_rollout(row, task) for row in rows], [_score(row) for row in rows])


def _task(row: Mapping[str, Any]) -> Task:
    said = _messages(row["messages"])
    # A plain prompt is stored as it is, and was the conversation's first message.
    plain = said and said[0].content == row["prompt"]
    return Task(
        row["task_id"],
        row["prompt"] if plain else _messages(row["prompt"]),
        json.loads(row["reference"]),
        json.loads(row.get("fields") or "{}"),
    )


def _rollout(row: Mapping[str, Any], task: Task) -> Rollout:
    return Rollout(
        id=row["rollout_id"],
        group_id=row["group_id"],
        task=task,
        messages=_messages(row["messages"]),
        turns=_turns(row),
        stop=row["stop"],
        rewards=tuple(json.loads(row.get("turn_rewards") or "[]")),
        env=json.loads(row.get("env") or "{}"),
        weight_version=row["weight_version"],
        seed=row["seed"],
    )


def _messages(text: str) -> tuple[Message, ...]:
    return tuple(map(Message.from_dict, json.loads(text)))


def _turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Runs of tokens shown and tokens sampled, by turns."""
    turns: list[Turn] = []
    shown: tuple[int, ...] = ()
    tokens = zip(row["token_ids"], row["sampled"], row["logprobs"], strict=True)
    for sampled, run in itertools.groupby(tokens, key=lambda token: token[1]):
        ids, _, logprobs = zip(*run, strict=True)
        if sampled:
            turns.append(Turn(shown, ids, logprobs, "stop"))
            shown = ()
        else:
            shown = ids
    if turns and row["stop"] == "length":
        last = turns[-1]
        turns[-1] = Turn(last.context_ids, last.token_ids, last.logprobs, "length")
    return tuple(turns)


def _score(row: Mapping[str, Any]) -> Score:
    if row["failure_kind"] is not None:
        score = Score.failed(row["failure_kind"], row["reason"] or "")
    else:
        score = Score(row["reward"], row["status"], row["reason"])
    return score.stamped(
        parts={name: _part(value) for name, value in json.loads(row["parts"]).items()},
        evaluator=row["evaluator"],
        fingerprint=row["fingerprint"],
        latency_s=row["latency_s"],
    )


def _part(value: float | None) -> Score:
    return Score.skip("only numbers of parts are stored") if value is None else Score(value)
