"""How far a run has come, in memory and in a checkpoint: all that changes from step to step, in one place.

A checkpoint's root is a plain Hugging Face folder (or peft's, for an adapter); `trainer/` beside it holds
what going on needs: the step, what is asked next, optimizer and all else the update remembers, what is known
of the evaluator's failures, the state of random numbers, and where the run's line files ended. Seeds of
rollouts come from the step, so a run that goes on does what it would have done, bit for bit on one machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rft.errors import DataError, RunError
from rft.evaluator import Evaluator
from rft.fork import Origin
from rft.preflight import require_check
from rft.recipe.schema import Recipe
from rft.runs.checkpoint import checkpoints, read_trainer_state, save_checkpoint, verify
from rft.runs.files import to_json
from rft.runs.folder import RunFolder
from rft.runs.writer import BackgroundWriter

if TYPE_CHECKING:
    from rft.assemble import Parts

_MEMORY = "memory.pt"
"""What is tensors, beside the model: of the update, and of random numbers."""


@dataclass
class Progress:
    """Completed steps, and the checkpoint they come from when a run goes on or was forked.

    Entered, it waits at its end for a checkpoint that is still being written.
    """

    step: int = 0
    checkpoint: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    """The checkpoint's `trainer/state.json`."""
    evaluator: str | None = None
    """Fingerprint of the evaluator that gave the scores so far."""
    is_fork: bool = False
    """The checkpoint is another run's: what does not fit this one's recipe starts fresh."""
    writer: BackgroundWriter = field(default_factory=BackgroundWriter, repr=False)
    _told_s: float = field(default=0.0, repr=False)

    @classmethod
    def at(cls, checkpoint: Path, *, is_fork: bool = False) -> Progress:
        """Where a checkpoint was taken. Raises RunError for one that is damaged or cannot be gone on with."""
        verify(checkpoint)
        state = read_trainer_state(checkpoint)
        if not is_fork and not (checkpoint / "trainer" / _MEMORY).is_file():
            raise RunError(
                f"{checkpoint} was saved without its optimizer (train.checkpoint.optimizer: false)"
            )
        return cls(state["step"], checkpoint, state, state.get("evaluator"), is_fork)

    @classmethod
    def newest(cls, run: RunFolder, note: Callable[[str], None]) -> Progress:
        """From the newest checkpoint that is whole and can be gone on with; else from the start.

        Args:
            note: is told which newer ones were passed over, and why.

        Raises RunError when there are checkpoints and none can be used, as starting over would lose the run.
        """
        damage = []
        for path in reversed(checkpoints(run)):
            try:
                progress = cls.at(path)
            except RunError as error:
                damage.append(str(error))
            else:
                for passed_over in damage:
                    note(f"going on from step {progress.step} instead: {passed_over}")
                return progress
        if damage:
            raise RunError(f"run {run.id} has no checkpoint to go on from: {'; '.join(damage)}")
        origin = Origin.of(run)
        start = Progress() if origin is None else cls.at(Path(origin.checkpoint), is_fork=True)
        note(f"run {run.id} has saved no checkpoint yet: starting over from step {start.step}")
        return start

    def admit(
        self,
        run: RunFolder,
        recipe: Recipe,
        evaluator: Evaluator,
        *,
        accept_change: bool,
        note: Callable[[str], None],
    ) -> None:
        """Takes an evaluator for the steps to come.

        Raises RunError when another one gave the scores so far and nobody has agreed to the change: the same
        answer would be worth something else half way, and its curve would not say so. Also when the recipe
        asks for a passing check and there is none.
        """
        now = evaluator.fingerprint()
        if self.evaluator not in (None, now):
            told = (
                f"evaluator {evaluator.name} is not the one this run began with ({self.evaluator}, now {now})"
            )
            if not (accept_change or self.is_fork):
                raise RunError(
                    f"{told}; put its code and options back, or agree with --accept-evaluator-change"
                )
            agreed = "" if self.is_fork else ", as agreed"
            note(f"{told}{agreed}; rewards before and after step {self.step} are not comparable")
        self.evaluator = now
        require_check(evaluator, recipe.evaluator.require_check, run, note)

    def restore(self, parts: Parts, note: Callable[[str], None]) -> None:
        """Puts every part where the checkpoint left it; nothing to do for a fresh run.

        Args:
            note: is told what starts fresh in a fork, because it does not fit the new recipe.

        Raises RunError when the checkpoint is of other parameters, DataError when it is of other tasks.
        """
        if self.checkpoint is None:
            return
        import torch

        try:
            parts.supply.restore(self.state["supply"], is_fork=self.is_fork)
        except DataError as error:
            if not self.is_fork:
                raise
            note(f"fork: the data begins anew: {error}")
        if not self.is_fork:
            parts.supervisor.restore(self.state["supervisor"])
        path = self.checkpoint / "trainer" / _MEMORY
        if self.is_fork and not path.is_file():
            note("fork: the optimizer starts fresh, as the checkpoint was saved without it")
            return
        memory = torch.load(path, map_location=parts.updater.device, weights_only=True)
        try:
            parts.updater.load_state_dict(memory["updater"])
        except ValueError as error:
            if not self.is_fork:
                raise RunError(f"{self.checkpoint} does not fit this recipe: {error}") from error
            note(f"fork: the optimizer starts fresh: {error}")
        _restore_random(memory["random"])

    def metrics(self) -> dict[str, float]:
        """Seconds that the run has waited for checkpoints since the last call."""
        blocked_s, self._told_s = self.writer.blocked_s - self._told_s, self.writer.blocked_s
        return {"time/checkpoint_s": blocked_s}

    @contextmanager
    def writing(self, parts: Parts, version: int) -> Iterator[None]:
        """`Weights.writing`, once nobody depends on the weights as they are: neither a checkpoint under way
        that reads them nor rollouts of the next step.

        Raises RunError when that checkpoint could not be written, EngineError when those rollouts failed.
        """
        self.writer.wait_until_read()
        parts.supply.wait()
        with parts.weights.writing(version):
            yield

    def save(self, run: RunFolder, parts: Parts, *, heldout: float | None = None, wait: bool = False) -> None:
        """Begins to write `checkpoints/step-N/`; what it promises is said at `rft.runs.checkpoint`.

        Nothing is copied: parameters and optimizer may change again inside `writing` only.

        Args:
            heldout: mean reward of the held-out tasks at this step, if they were judged.
            wait: return when the checkpoint is there.

        Raises RunError when this one (with `wait`), or the one before, could not be written.
        """
        import torch

        recipe, step = parts.recipe, self.step
        spec = recipe.train.checkpoint
        about = {"step": step, "weight_version": step, "base": recipe.model.source, "run": run.id}
        about |= {"revision": recipe.model.revision} if recipe.model.revision is not None else {}
        state = {
            "step": step,
            "supply": parts.supply.state(),
            "evaluator": self.evaluator,
            "supervisor": parts.supervisor.state(),
            "heldout": heldout,
            "marks": run.marks(),
        }
        memory = {"updater": parts.updater.state_dict(), "random": _random_state()}
        save_model = parts.policy.saver()

        def write_model(folder: Path) -> None:
            save_model(folder)
            (folder / "rft.json").write_text(to_json(about) + "\n")

        def write_trainer(folder: Path) -> None:
            if spec.optimizer:
                torch.save(memory, folder / _MEMORY)

        def write(has_read: Callable[[], None]) -> None:
            save_checkpoint(
                run,
                step,
                write_model,
                state,
                spec.keep,
                write_trainer,
                keep_best=spec.keep_best,
                has_read=has_read,
            )

        torch.serialization.set_crc32_options(False)  # slower than the disk, and the manifest has SHA-256
        self.writer.start(write)
        if wait:
            self.writer.finish()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.writer.finish()
        except RunError as failed:
            if error is None:
                raise
            error.add_note(str(failed))


def _random_state() -> dict[str, Any]:
    """Of Python and numpy, for environments and evaluators. torch's is seeded anew for each update."""
    import numpy as np

    numpy: Any = np.random.get_state()
    return {"python": random.getstate(), "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:])}


def _restore_random(state: dict[str, Any]) -> None:
    import numpy as np

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
