"""One service, however many evaluators call it: its slots, its pace, its breaker.

A service does not care which of our evaluators sends a request. So evaluators that name the same
`origin` share one of these in each event loop, the strictest of their limits holding for all; an evaluator
that names none has one to itself.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from rft.evaluator import Evaluator, Limits
from rft.scoring.breaker import Breaker
from rft.scoring.limits import Gate, limits_of
from rft.types import Score

OnEvent = Callable[[str, dict[str, Any]], None]
"""Receives (name, fields) of what an operator may want to see; `rft.scoring.events` lists them."""


class Origin:
    """Slots, pace and breaker of one service. Belongs to one event loop.

    Each attempt is `probe = await origin.enter()`, the call, and `origin.leave(probe, score)`.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.gate = Gate(limits.concurrency, limits.rpm)
        self.breaker = Breaker(limits.break_after, limits.cool_s, limits.patience_s)

    async def enter(self, again: bool = False) -> bool:
        """Returns with a slot, and whether this attempt is the breaker's probe. Raises `breaker.Open`.

        Args:
            again: it is not the first attempt.
        """
        while True:
            probe = await self.breaker.enter()
            try:
                await self.gate.acquire(again)
            except BaseException:
                self.breaker.leave(probe, None)
                raise
            if probe or not self.breaker.is_open:
                return probe
            self.gate.release()  # it opened while we stood in line

    def leave(self, probe: bool, score: Score | None, on_event: OnEvent) -> None:
        """Gives the slot back and tells the breaker how the attempt ended; None was cancelled."""
        self.gate.release()
        breaker = self.breaker
        paused_s = breaker.paused_s
        change = breaker.leave(probe, score)
        if change == "opened":
            on_event(
                "breaker_opened",
                {
                    "origin": self.name,
                    "why": breaker.why,
                    "probe_in_s": breaker.cool_s,
                    "gives_up_after_s": breaker.patience_s,
                },
            )
        elif change == "closed":
            on_event("breaker_closed", {"origin": self.name, "paused_s": breaker.paused_s - paused_s})

    def _tighten(self, limits: Limits) -> bool:
        breaker, before = self.breaker, (self.breaker.after, self.breaker.cool_s, self.breaker.patience_s)
        breaker.after = min((n for n in (breaker.after, limits.break_after) if n is not None), default=None)
        breaker.cool_s = max(breaker.cool_s, limits.cool_s)
        breaker.patience_s = min(breaker.patience_s, limits.patience_s)
        changed = before != (breaker.after, breaker.cool_s, breaker.patience_s)
        return self.gate.tighten(limits) or changed


_Shared = weakref.WeakValueDictionary[str, Origin]
_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = weakref.WeakKeyDictionary()


def origin_of(evaluator: Evaluator, on_event: OnEvent) -> Origin:
    """The evaluator's origin in the running loop; it lives as long as somebody holds it."""
    limits = limits_of(evaluator)
    if evaluator.origin is None:
        return Origin(evaluator.name, limits)
    shared = _by_loop.setdefault(asyncio.get_running_loop(), weakref.WeakValueDictionary())
    origin = shared.get(evaluator.origin)
    if origin is None:
        origin = shared[evaluator.origin] = Origin(evaluator.origin, limits)
    elif origin._tighten(limits):
        on_event(
            "origin_limits_tightened",
            {
                "origin": origin.name,
                "evaluator": evaluator.name,
                "concurrency": origin.gate.concurrency,
                "rpm": origin.gate.rpm,
            },
        )
    return origin
