"""A batch as plain values and tensors, which `torch.load(weights_only=True)` reads back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

from rft.learn.batch import Batch, BatchStats, TokenSequence


def batch_state(batch: Batch) -> dict[str, Any]:
    """Every field of a batch: tensors on the CPU, sequences and statistics as mappings."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    state = {
        name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in values.items()
    }
    return state | {
        "sequences": [sequence._asdict() for sequence in batch.sequences],
        "stats": batch.stats._asdict(),
    }


def batch_from(state: dict[str, Any]) -> Batch:
    """The batch that `batch_state` described. Raises TypeError for fields that this version does not know."""
    return Batch(
        **state
        | {
            "sequences": tuple(TokenSequence(**sequence) for sequence in state["sequences"]),
            "stats": BatchStats(**state["stats"]),
        }
    )


def not_finite(batch: Batch) -> dict[str, list[str]]:
    """For each rollout that holds NaN or infinity: the batch's fields where. A NaN among the sampler's
    log-probabilities is left out: it says that the sampler gave none.

    Empty when the numbers that went in are sound, and the model or the loss made the bad one.
    """
    found: dict[str, list[str]] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if not isinstance(value, Tensor) or not value.is_floating_point() or field.name.endswith("SK"):
            continue
        bad = value.isinf() if field.name == "sampler_logprobs_N" else ~value.isfinite()
        where = bad.nonzero().flatten()
        sequences = where if field.name.endswith("_S") else batch.sequence_N[where]
        for index in sorted(set(sequences.tolist())):
            found.setdefault(batch.sequences[index].rollout_id, []).append(field.name)
    return found
