"""A circuit breaker that makes work wait instead of failing it.

The usual breaker answers "open" at once, which in training would turn an outage of a minute into a step of
masked rollouts. So here an open breaker holds every evaluation back; after `cool_s` one of them goes through
to see whether the service answers again, and the others follow or wait on. Only when it has been open for
`patience_s` are evaluations given up, with the failure `circuit_open`, while one at a time still tries.

Only what says that the service is not there counts: an unreadable or impossible answer is an answer. So is
any success of an evaluation that began before: it closes the breaker at once.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from rft.types import FailureKind, Score

OUTAGES: frozenset[FailureKind] = frozenset({"timeout", "rate_limited", "transport", "server", "sandbox"})
"""Failures that say the service is not there."""

Change = Literal["opened", "closed"]


def is_outage(score: Score) -> bool:
    """Whether the score says that the service is not there."""
    return score.failure is not None and score.failure.kind in OUTAGES


class Open(Exception):
    """The breaker has been open for longer than work is held back. Its text says since when and why."""


class Breaker:
    """Belongs to one event loop, whose clock it goes by.

    Args:
        after: so many outage failures in a row open it; None never does.
        cool_s: seconds until a probe is let through, and between one failed probe and the next.
        patience_s: seconds an open breaker holds work back before it is given up.
    """

    def __init__(self, after: int | None, cool_s: float, patience_s: float) -> None:
        self.after = after
        self.cool_s = cool_s
        self.patience_s = patience_s
        self.paused_s = 0.0
        """Seconds it has been open, all closed openings together."""
        self.in_a_row = 0
        """Outages since the last answer."""
        self._why = ""
        self._opened_at: float | None = None
        self._probe_at = 0.0
        self._probing = False
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether work is held back."""
        return self._opened_at is not None

    @property
    def is_patient(self) -> bool:
        """Whether it is open, and not yet for so long that work is given up."""
        return self._opened_at is not None and _now() < self._opened_at + self.patience_s

    @property
    def why(self) -> str:
        """The run of failures that opened it, in words."""
        return f"{self.in_a_row} failures in a row, the last: {self._why}"

    async def wait(self) -> None:
        """Returns once it is closed. Raises Open when it has been open for too long."""
        while self._opened_at is not None:
            self._raise_if_too_long()
            await self._next_change(self._opened_at + self.patience_s)

    async def enter(self) -> bool:
        """Returns when an attempt may begin, and whether it is the probe; `leave` must follow.

        Raises Open when it has been open for too long.
        """
        while self._opened_at is not None:
            if not self._probing and _now() >= self._probe_at:
                self._probing = True
                return True
            self._raise_if_too_long()
            gives_up = self._opened_at + self.patience_s
            await self._next_change(gives_up if self._probing else min(self._probe_at, gives_up))
        return False

    def leave(self, probe: bool, score: Score | None) -> Change | None:
        """Takes note of how an attempt ended; None stands for one that was cancelled."""
        if probe:
            self._probing = False
        if score is None:
            self._tell()
            return None
        if not is_outage(score):
            return self._close()
        self.in_a_row += 1
        self._why = score.explain()
        if probe:
            self._probe_at = _now() + self.cool_s
            self._tell()
        elif self._opened_at is None and self.after is not None and self.in_a_row >= self.after:
            self._opened_at = _now()
            self._probe_at = self._opened_at + self.cool_s
            return "opened"
        return None

    def _close(self) -> Change | None:
        self.in_a_row = 0
        if self._opened_at is None:
            return None
        self.paused_s += _now() - self._opened_at
        self._opened_at = None
        self._tell()
        return "closed"

    def _raise_if_too_long(self) -> None:
        if self._opened_at is not None and not self.is_patient:
            raise Open(f"no answer for {_now() - self._opened_at:.0f} s; {self.why}")

    async def _next_change(self, until: float) -> None:
        """Waits for news, at most until that moment of the loop's clock."""
        changed = self._changed
        try:
            async with asyncio.timeout_at(until):
                await changed.wait()
        except TimeoutError:
            pass

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _now() -> float:
    return asyncio.get_running_loop().time()
