"""Rollouts as a table: one row a rollout, with the tokens as the engine saw them and the reasoned verdict.

`token_ids` is the whole sequence, prompt included; `sampled` says which of them the policy chose (only those
are trained on), and `logprobs` is null for the others. Values that differ in shape from task to task are JSON
text, so that files of different steps always have the same columns.

    import pandas; pandas.read_parquet("runs/sort/20260314-092653-589kf/rollouts/step-000012.parquet")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rft.errors import RunError
from rft.runs.files import discard, to_json
from rft.secrets import hide
from rft.types import Group, Rollout, Score

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("group_id", pa.string()),
        ("rollout_id", pa.string()),
        ("task_id", pa.string()),
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("fields", pa.string()),
        ("messages", pa.string()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("sampled", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),
        ("reward", pa.float64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("failure_kind", pa.string()),
        ("parts", pa.string()),
        ("metrics", pa.string()),
        ("stop", pa.string()),
        ("turn_rewards", pa.string()),
        ("env", pa.string()),
        ("seed", pa.int64()),
        ("weight_version", pa.int32()),
        ("evaluator", pa.string()),
        ("fingerprint", pa.string()),
        ("latency_s", pa.float64()),
    ]
)


def write_rollouts(path: Path, step: int, groups: Sequence[Group]) -> None:
    """Writes aside and renames, so that a file that exists is whole. Raises RunError."""
    rows = [
        _row(step, rollout, score)
        for group in groups
        for rollout, score in zip(group.rollouts, group.scores, strict=True)
    ]
    aside = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), aside, compression="zstd")
        os.replace(aside, path)
    except OSError as error:
        discard(aside)
        raise RunError(f"could not write {path}: {error}; rollouts of earlier steps are kept") from error


def read_rollouts(path: Path) -> list[dict[str, Any]]:
    """The rows of one file. Raises RunError when it is missing or damaged."""
    try:
        return pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _row(step: int, rollout: Rollout, score: Score) -> dict[str, Any]:
    prompt = rollout.task.prompt
    ids: list[int] = []
    sampled: list[bool] = []
    logprobs: list[float | None] = []
    for turn in rollout.turns:
        ids += [*turn.context_ids, *turn.token_ids]
        sampled += [False] * len(turn.context_ids) + [True] * len(turn.token_ids)
        logprobs += [*[None] * len(turn.context_ids), *turn.logprobs]
    return {
        "step": step,
        "group_id": rollout.group_id,
        "rollout_id": rollout.id,
        "task_id": rollout.task.id,
        "prompt": prompt if isinstance(prompt, str) else to_json([message.to_dict() for message in prompt]),
        "reference": to_json(rollout.task.reference),
        "fields": to_json(rollout.task.metadata),
        "messages": to_json([message.to_dict() for message in rollout.messages]),
        "text": rollout.text,
        "token_ids": ids,
        "sampled": sampled,
        "logprobs": logprobs,
        "reward": score.value,
        "status": score.status,
        "reason": score.reason,
        "failure_kind": score.failure.kind if score.failure else None,
        "parts": to_json({name: part.value for name, part in score.parts.items()}),
        "metrics": to_json({**rollout.metrics, **score.metrics}),
        "stop": rollout.stop,
        "turn_rewards": to_json(rollout.rewards),
        "env": hide(to_json(rollout.env)),  # an environment may have put its credentials there
        "seed": rollout.seed,
        "weight_version": rollout.weight_version,
        "evaluator": score.evaluator,
        "fingerprint": score.fingerprint,
        "latency_s": score.latency_s,
    }
