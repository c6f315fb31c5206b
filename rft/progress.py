"""How far a run has come, in memory and in a checkpoint: the step, the data's order, the optimizer.

A checkpoint's root is a plain Hugging Face folder (or peft's, for an adapter); `trainer/` beside it holds
what going on needs. Seeds of rollouts come from the step, so nothing else has a state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.data.order import TaskOrder
from rft.errors import RunError
from rft.evaluator import Evaluator
from rft.preflight import require_check
from rft.recipe.schema import Recipe
from rft.runs.checkpoint import checkpoints, read_trainer_state, save_checkpoint, verify
from rft.runs.files import to_json
from rft.runs.folder import RunFolder

if TYPE_CHECKING:
    from rft.learn.update import Updater
    from rft.models.policy import Policy

_OPTIMIZER = "optimizer.pt"


@dataclass
class Progress:
    """Completed steps, and the checkpoint they come from when a run goes on."""

    step: int = 0
    checkpoint: Path | None = None
    order_state: dict[str, Any] | None = None
    evaluator: str | None = None
    """Fingerprint of the evaluator that gave the scores so far."""

    @classmethod
    def newest(cls, run: RunFolder, note: Callable[[str], None]) -> Progress:
        """From the newest checkpoint that is whole and can be gone on with.

        Args:
            note: is told which newer ones were passed over, and why.

        Raises RunError when there is none.
        """
        damage = []
        for path in reversed(checkpoints(run)):
            try:
                verify(path)
                state = read_trainer_state(path)
                if not (path / "trainer" / _OPTIMIZER).is_file():
                    raise RunError(
                        f"{path} was saved without its optimizer (train.checkpoint.optimizer: false)"
                    )
                progress = cls(
                    step=state["step"],
                    checkpoint=path,
                    order_state=state["order"],
                    evaluator=state.get("evaluator"),
                )
            except RunError as error:
                damage.append(str(error))
            else:
                for passed_over in damage:
                    note(f"going on from step {progress.step} instead: {passed_over}")
                return progress
        why = f": {'; '.join(damage)}" if damage else ""
        raise RunError(f"run {run.id} has no checkpoint to go on from{why}")

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
            if not accept_change:
                raise RunError(
                    f"{told}; put its code and options back, or agree with --accept-evaluator-change"
                )
            note(f"{told}, as agreed; rewards before and after step {self.step} are not comparable")
        self.evaluator = now
        require_check(evaluator, recipe.evaluator.require_check, run, note)

    def restore(self, order: TaskOrder, updater: Updater) -> None:
        """Puts data and optimizer where the checkpoint left them; nothing to do for a fresh run.

        Raises RunError when the checkpoint is of other parameters, as after `model.*` was changed.
        """
        if self.checkpoint is None or self.order_state is None:
            return
        import torch

        order.restore(self.order_state)
        path = self.checkpoint / "trainer" / _OPTIMIZER
        try:
            updater.optimizer.load_state_dict(
                torch.load(path, map_location=updater.device, weights_only=True)
            )
        except ValueError as error:
            raise RunError(f"{self.checkpoint} does not fit this recipe: {error}") from error

    def save(
        self, run: RunFolder, order: TaskOrder, updater: Updater, policy: Policy, recipe: Recipe
    ) -> Path:
        """Writes `checkpoints/step-N/`; see `rft.runs.checkpoint.save_checkpoint` for what it promises."""
        import torch

        def write_model(folder: Path) -> None:
            policy.save(folder)
            model = recipe.model
            about = {"step": self.step, "weight_version": self.step, "base": model.source, "run": run.id}
            about |= {"revision": model.revision} if model.revision is not None else {}
            (folder / "rft.json").write_text(to_json(about) + "\n")

        def write_trainer(folder: Path) -> None:
            if recipe.train.checkpoint.optimizer:
                torch.save(updater.optimizer.state_dict(), folder / _OPTIMIZER)

        state = {"step": self.step, "order": order.state(), "evaluator": self.evaluator}
        return save_checkpoint(
            run, self.step, write_model, state, recipe.train.checkpoint.keep, write_trainer
        )
