"""What may change in a run that goes on, and what in a fork of it; a fork's origin, kept in its folder.

A run that goes on is the same experiment to its end, so only keys that decide how long, how much at once and
what is kept may change. A fork is an experiment of its own from another's checkpoint: everything may change
but the parameters that the checkpoint is of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rft.errors import RunError
from rft.recipe.load import load_recipe
from rft.recipe.schema import Recipe
from rft.runs.checkpoint import checkpoints, latest
from rft.runs.folder import RunFolder

_MAY_CHANGE = (
    *("train.steps", "train.checkpoint", "train.output_dir", "train.max_failure_rate", "train.max_bugs"),
    *("train.max_bad_steps", "train.min_groups", "eval.every", "scoring", "tracking", "serve"),
    "evaluator",  # watched by its fingerprint, see `Progress.admit`
    # Memory and speed: sums may be added up in another order, nothing else.
    *("train.micro_batch_tokens", "train.logit_chunk", "train.share_prompts", "model.gradient_checkpointing"),
    *("engine.kv_cache_gb", "engine.max_num_seqs", "engine.gpu_memory_utilization", "engine.args"),
    *("engine.parity_every", "engine.publish"),
)
_PARAMETERS = ("model.source", "model.revision", "model.adapter")


class Change(NamedTuple):
    """One key of a recipe that has another value than before.

    >>> print(Change("train.learning_rate", 1e-05, 2e-05))
    train.learning_rate: 1e-05 -> 2e-05
    """

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)}"

    def below(self, keys: Sequence[str]) -> bool:
        """Whether it is one of `keys`, or inside one."""
        return any(self.key == key or self.key.startswith(f"{key}.") for key in keys)


@dataclass(frozen=True)
class Origin:
    """The checkpoint a run was forked from."""

    run: str
    """Path of the run folder."""
    step: int
    checkpoint: str
    """Path of the checkpoint's folder."""

    @classmethod
    def find(cls, which: str, output_dir: str | Path = "runs") -> Origin:
        """RUN or RUN@STEP: a run as `RunFolder.open` takes it, at its newest checkpoint or that of a step.

        A run of stages stands for the newest of them that has a checkpoint.

        Raises RunError, with the steps there are.
        """
        name, at, step = which.rpartition("@")
        if not (at and step.isdecimal()):
            name, step = which, ""
        run = RunFolder.open(name, output_dir)
        run = next((stage for stage in reversed(run.stages()) if checkpoints(stage)), run)
        there = {int(path.name.rpartition("-")[2]): path for path in checkpoints(run)}
        path = there.get(int(step)) if step else latest(run)
        if path is None:
            wanted = f"checkpoint of step {step}" if step else "checkpoint"
            known = f"it has {', '.join(map(str, there))}" if there else "it has none"
            raise RunError(f"run {run.id} has no {wanted} to fork; {known}")
        return cls(str(run.path.resolve()), int(path.name.rpartition("-")[2]), str(path.resolve()))

    @classmethod
    def of(cls, run: RunFolder) -> Origin | None:
        """Where a run was forked from, None when it was not. Raises RunError for a damaged file."""
        try:
            return cls(**json.loads(run.origin_path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{run.origin_path} cannot be read: {error}") from error

    def to_json(self) -> str:
        """The text of origin.json."""
        return json.dumps(asdict(self), indent=1) + "\n"


def differences(old: Recipe, new: Recipe) -> list[Change]:
    """Every key whose resolved value differs, in the recipe's order."""
    return list(_changes("", *(recipe.model_dump(mode="json", by_alias=True) for recipe in (old, new))))


def require_same_experiment(run: RunFolder, recipe: Recipe) -> list[Change]:
    """What has changed for a run that goes on.

    Raises RunError, naming the keys, when that makes it another experiment.
    """
    changes = differences(load_recipe(run.recipe_path), recipe)
    wrong = [change for change in changes if not change.below(_MAY_CHANGE)]
    if wrong:
        raise RunError(
            f"a run that goes on is the same experiment, so this cannot change: {_listed(wrong)}; "
            f"for a new run from its checkpoint: rft train --fork {run.path} KEY=VALUE"
        )
    return changes


def forked_from(origin: Origin, recipe: Recipe) -> list[Change]:
    """What has changed for a fork. Raises RunError when the checkpoint cannot be its start."""
    changes = differences(load_recipe(RunFolder(Path(origin.run)).recipe_path), recipe)
    wrong = [change for change in changes if change.below(_PARAMETERS)]
    if wrong:
        raise RunError(
            f"{origin.checkpoint} is of other parameters than the recipe: {_listed(wrong)}; put that back, "
            f"or start from its weights alone with model.source={origin.checkpoint} and without --fork"
        )
    if recipe.train.steps <= origin.step:
        raise RunError(
            f"a fork counts on from its checkpoint's step, {origin.step}, so train.steps must be more than "
            f"that, got {recipe.train.steps}"
        )
    return changes


def _changes(path: str, old: Any, new: Any) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _changes(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    elif old != new:
        yield Change(path, old, new)


def _listed(changes: Sequence[Change]) -> str:
    return "; ".join(map(str, changes))


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)
