"""Updates whose loss or gradient was not finite: not applied, kept to be looked at, and few allowed in a row.

The optimizer leaves weights and moments as they were, so the state after a bad update is the last good one,
and the checkpoint that a stop writes holds it. How many there were in a row is read off the run's metrics, so
a resumed run counts on.

To look at one, or to run it again:

    failed = load_failed("runs/sort/20260314-092653-589kf/failed/step-000012.pt")
    failed.suspects            # rollouts with NaN or infinity in what went into the update
    updater.update(failed.batch)   # measured and credited as it was; `rft.learn.update.Updater`
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rft.errors import RunError, RunStopped
from rft.runs.folder import RunFolder
from rft.runs.view import View

if TYPE_CHECKING:
    from rft.assemble import Parts
    from rft.learn.batch import Batch
    from rft.learn.update import UpdateStats

KEPT = 5
"""Newest batches that a run keeps."""


class FailedStep(NamedTuple):
    """One update that was not applied, or not all of it."""

    step: int
    weight_version: int
    """The weights it began with: those after this many steps, which are also those of the next bad step."""
    loss: float
    grad_norm: float
    suspects: dict[str, list[str]]
    """By rollout: the fields of the batch that hold NaN or infinity in it. Empty when the model or the loss
    made the bad number out of sound ones."""
    batch: Batch
    """As it went into the update: token ids, masks, advantages, everybody's log-probabilities."""


def after_update(
    parts: Parts, run: RunFolder, view: View, step: int, batch: Batch, stats: UpdateStats
) -> str | None:
    """Keeps the batch of a bad update and tells of it; why the run must stop, after `max_bad_steps` in a row.

    Raises RunStopped when the weights themselves are not finite: they are not worth a checkpoint.
    """
    if not stats.steps_skipped:
        return None
    return not_applied(parts, run, view, step, stats.loss, stats.grad_norm, _keep(run, step, batch, stats))


def not_applied(
    parts: Parts, run: RunFolder, view: View, step: int, loss: float, grad_norm: float, batch: Path | None
) -> str | None:
    """Tells of a bad update; why the run must stop, after `max_bad_steps` in a row.

    Args:
        batch: where what went into it is kept, if it is.

    Raises RunStopped when the weights themselves are not finite: they are not worth a checkpoint.
    """
    broken = [
        name for name, parameter in parts.policy.model.named_parameters() if not parameter.isfinite().all()
    ]
    if broken:
        raise RunStopped(
            f"the weights hold NaN or infinity after step {step - 1} ({broken[0]}, {len(broken)} in all) "
            f"and are not saved; go on from the checkpoint before with: rft train --resume {run.path}"
        )
    in_a_row = 1 + _bad_before(run, step)
    run.event("bad_update", step=step, loss=loss, grad_norm=grad_norm, batch=batch and str(batch))
    kept = f"; its batch is kept in {batch}" if batch is not None else ""
    view.note(f"step {step}: {_what(loss)} was not finite, so that update was not applied{kept}")
    if in_a_row < parts.recipe.train.max_bad_steps:
        return None
    return (
        f"{in_a_row} updates in a row had a loss or gradient that was not finite (train.max_bad_steps), and "
        f"none of them was applied; lower train.learning_rate or set model.dtype: float32"
    )


def load_failed(path: str | Path) -> FailedStep:
    """A kept batch. Raises RunError when the file cannot be read."""
    import torch

    from rft.learn.stored import batch_from, not_finite

    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        batch = batch_from(state["batch"])
        known = {name: state[name] for name in ("step", "weight_version", "loss", "grad_norm")}
    except Exception as error:  # what pickle and zip raise has no common name
        raise RunError(f"{path} is no batch of a failed update that can be read: {error}") from error
    return FailedStep(**known, suspects=not_finite(batch), batch=batch)


def _keep(run: RunFolder, step: int, batch: Batch, stats: UpdateStats) -> Path:
    import torch

    from rft.learn.stored import batch_state

    folder = run.path / "failed"
    path = folder / f"step-{step:06d}.pt"
    state = {
        "step": step,
        "weight_version": step - 1,
        "loss": stats.loss,
        "grad_norm": stats.grad_norm,
        "batch": batch_state(batch),
    }
    try:
        folder.mkdir(exist_ok=True)
        torch.save(state, path)
        for old in sorted(folder.glob("step-*.pt"))[:-KEPT]:
            old.unlink()
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError on a full disk
        raise RunError(f"could not write {path}: {error}; checkpoints of earlier steps are kept") from error
    return path


def _bad_before(run: RunFolder, step: int) -> int:
    """Bad updates right before this step, without a good one between."""
    count = 0
    for row in reversed([row for row in run.metrics() if row["step"] < step]):
        if not row.get("update/skipped"):
            break
        count += 1
    return count


def _what(loss: float) -> str:
    return f"the gradient (the loss is {loss:.4g})" if math.isfinite(loss) else "the loss"
