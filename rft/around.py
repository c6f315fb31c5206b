"""What surrounds a step in every training page: held-out judging, the bond's proof, how a run ends.

Nothing here decides what is learned; the pages (`train.py`, `offline.py`) do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rft import background
from rft.assemble import Parts
from rft.errors import RunStopped, UserError
from rft.heldout import Judged
from rft.process import release_threads
from rft.progress import Progress
from rft.rollout.collect import collect
from rft.runs.folder import RunFolder, State
from rft.runs.rollouts import read_rollouts
from rft.runs.trackers import Trackers
from rft.runs.view import View
from rft.types import Group


@dataclass
class Clock:
    """Seconds by phase since it was made; "step" is all of them."""

    seconds: dict[str, float] = field(default_factory=lambda: {"step": 0.0})
    last: float = field(default_factory=time.perf_counter)

    def lap(self, phase: str) -> None:
        """Books the time since the last lap under `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = now - self.last
        self.seconds["step"] += now - self.last
        self.last = now


def judge(parts: Parts, run: RunFolder, view: View, step: int, when: str) -> Judged:
    """Answers and scores of the held-out tasks, written to the run and shown."""
    view.phase("held-out")
    started = time.perf_counter()
    groups = _heldout_answers(parts, view)
    parts.supervisor.saw(groups)
    seconds = time.perf_counter() - started
    judged = Judged(read_rollouts(run.write_rollouts(step, groups, split="heldout")), seconds)
    run.event("heldout", step=step, when=when, **judged.metrics())
    if (estimate := judged.estimate) is not None:
        view.heldout(estimate.mean, estimate.low, estimate.high, when)
    return judged


def _heldout_answers(parts: Parts, view: View) -> list[Group]:
    spec = parts.recipe.eval
    release_threads()  # the engine's turn
    # What other prompts left in its cache would change the last bits, and a run that goes on here lacks it.
    parts.engine.forget_prompts()
    return background.run(
        collect(
            parts.player,
            parts.runner.score,
            parts.heldout,
            group_size=spec.samples,
            # The same seeds each time: what changes between two evaluations is the policy.
            seed_parts=(parts.recipe.seed, "heldout"),
            temperature=spec.temperature,
            settle=parts.runner.settle,
            ready=parts.runner.ready,
            on_progress=view.progress,
        )
    )


def prove_bond(parts: Parts, view: View, step: int) -> tuple[dict[str, float], str | None]:
    """Proves the weights again where it is due; a bond that broke is replaced by the next.

    Returns metrics, and why the run must stop where no way of publishing holds any more.
    """
    if not due(parts.recipe.engine.parity_every, step):
        return {}, None
    from rft.engine.views import BindingError

    try:
        try:
            parity = parts.weights.check()
        except BindingError as error:
            parity = parts.weights.fall_back(str(error))
            view.note(f"step {step}: publishing by {parts.weights.mode} from now on: {error}")
    except BindingError as error:
        return {}, str(error)
    return {"parity/mean": parity.mean, "parity/max": parity.max}, None


def write_down(
    parts: Parts,
    run: RunFolder,
    view: View,
    progress: Progress,
    trackers: Trackers,
    metrics: dict[str, float],
    *,
    last: bool,
    trouble: str | None,
) -> None:
    """Records a step and shows it; saves it where that is due, and at the last.

    Raises RunStopped for trouble, when the step is saved.
    """
    run.record(progress.step, metrics)
    trackers.wake()
    view.step(metrics)
    if last or due(parts.recipe.train.checkpoint.every, progress.step):
        view.phase("checkpoint")
        progress.save(run, parts, heldout=metrics.get("heldout/mean"), wait=last)
    if trouble is not None:
        raise RunStopped(f"{trouble}; step {progress.step} is saved, {go_on(run)}")


def due(every: int, step: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens after this one."""
    return every > 0 and step % every == 0


def go_on(run: RunFolder) -> str:
    """How a stopped run is gone on with, in words."""
    return f"go on with: rft train --resume {run.path}"


@contextmanager
def status(run: RunFolder, steps: int, progress: Progress) -> Iterator[None]:
    """Leaves in the run folder how a run of so many steps ended.

    Wrong input that shows before anything is done leaves no folder: the newest run of that name stays the one
    that has something to go on with.
    """
    run.set_status("running", step=progress.step, steps=steps)
    try:
        yield
    except KeyboardInterrupt:
        run.set_status("stopped", step=progress.step, steps=steps, message="interrupted")
        raise
    except Exception as error:
        if isinstance(error, UserError) and run.is_blank:
            run.remove()
            raise
        state: State = "stopped" if isinstance(error, RunStopped) else "failed"
        run.set_status(state, step=progress.step, steps=steps, message=str(error))
        raise
    run.set_status("finished" if progress.step >= steps else "stopped", step=progress.step, steps=steps)
