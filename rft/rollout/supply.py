"""A run's groups, step after step; the next step's while this one's update runs, where that is asked for.

One step off (`rollout.one_step_off`): as soon as a step has its groups, those of the next one are begun with
the weights as they are. Forward and backward only read the weights, so both go on at once; whoever writes
them waits first (`wait`). So every group is of one version, exactly one step behind, the engine stands still
at a checkpoint or a held-out evaluation, and a run with the same seed does the same again. That the data is a
step old is what `algorithm.mismatch` corrects: the policy at the update over the sampler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from rft import background
from rft.process import release_threads
from rft.rollout.collect import OnProgress
from rft.rollout.selection import Selection, Supplied
from rft.rollout.stored import group_from_text, group_to_text


@dataclass(frozen=True)
class _Ahead:
    """A step that is played before its turn: under way, or finished."""

    step: int
    playing: asyncio.Task[Supplied] | None = None
    supplied: Supplied | None = None


class Supply:
    """Used by one thread; what it plays runs on the background loop."""

    def __init__(
        self,
        selection: Selection,
        *,
        steps: int,
        one_step_off: bool,
        refresh: Callable[[], None] = lambda: None,
        on_progress: OnProgress = lambda done, total: None,
    ) -> None:
        """
        Args:
            steps: of the whole run; nothing is played beyond them.
            refresh: called before the groups of a step are begun, while nothing is being played.
            on_progress: called with (scored, total) while `step` plays.
        """
        self._selection = selection
        self._steps = steps
        self._one_step_off = one_step_off
        self._refresh = refresh
        self._on_progress = on_progress
        self._ahead: _Ahead | None = None

    def step(self, step: int) -> Supplied:
        """The groups of `step`, counted from 0. Raises EngineError when the engine dies."""
        self.wait()
        if self._ahead is not None and self._ahead.step == step and self._ahead.supplied is not None:
            supplied = self._ahead.supplied
        else:
            release_threads()  # the engine's turn
            self._refresh()
            supplied = background.run(self._selection.play(step, self._on_progress))
        self._ahead = None
        if self._one_step_off and step + 1 < self._steps:
            self._refresh()
            playing = background.run(_begun(self._selection.play(step + 1)))
            self._ahead = _Ahead(step + 1, playing)
        return supplied

    def wait(self) -> None:
        """Returns when nothing is being played, so that weights may be written.

        Raises EngineError when the engine died meanwhile.
        """
        if self._ahead is None or self._ahead.playing is None:
            return
        began = time.perf_counter()
        if not self._ahead.playing.done():
            release_threads()  # this thread's workers would slow the engine's down
        supplied = background.run(_finished(self._ahead.playing))
        waited = {"time/waited_s": time.perf_counter() - began}
        self._ahead = _Ahead(
            self._ahead.step, supplied=replace(supplied, metrics={**supplied.metrics, **waited})
        )

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, as plain JSON values. Waits for what is being played."""
        self.wait()
        state = self._selection.state()
        if self._ahead is not None and self._ahead.supplied is not None:
            supplied, number = self._ahead.supplied, self._selection.tasks.number
            state["ahead"] = {
                "step": self._ahead.step,
                "groups": [group_to_text(group, number) for group in supplied.groups],
                "set_aside": [group_to_text(group, number) for group in supplied.set_aside],
                "seconds": supplied.seconds,
                "metrics": supplied.metrics,
            }
        return state

    def restore(self, state: dict[str, Any], *, is_fork: bool = False) -> None:
        """Goes on where `state` was taken; in a fork, which plays by its own rules, with the tasks only.

        Raises DataError when the tasks or their order are not the same.
        """
        self._ahead = None
        if is_fork:
            self._selection.tasks.restore(state["tasks"])
            return
        self._selection.restore(state)
        if (ahead := state.get("ahead")) is not None:
            task = self._selection.tasks.task
            groups, set_aside = (
                [group_from_text(text, task) for text in ahead[name]] for name in ("groups", "set_aside")
            )
            supplied = Supplied(groups, set_aside, ahead["seconds"], ahead["metrics"])
            self._ahead = _Ahead(ahead["step"], supplied=supplied)

    def close(self) -> None:
        """Cancels what is being played, and returns when it has ended."""
        if self._ahead is not None and self._ahead.playing is not None:
            background.run(_ended(self._ahead.playing))
        self._ahead = None


async def _begun(playing: Coroutine[Any, Any, Supplied]) -> asyncio.Task[Supplied]:
    return asyncio.create_task(playing)


async def _finished(playing: asyncio.Task[Supplied]) -> Supplied:
    return await asyncio.shield(playing)


async def _ended(playing: asyncio.Task[Supplied]) -> None:
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
