"""How hard an evaluator may be driven. The numbers are the author's; keeping them is the runner's work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How hard an evaluator may be driven.

    >>> Limits(concurrency=8, timeout_s=5).deadline_s
    120.0
    """

    concurrency: int = 64
    """Evaluations in flight together."""
    rpm: int | None = None
    """Attempts begun per minute, evenly spaced."""
    timeout_s: float = 30.0
    """Seconds for one attempt."""
    deadline_s: float = 120.0
    """Seconds for all attempts and the pauses between them; waiting for a free slot does not count."""
    attempts: int = 4
    """Tries per rollout, the first included. Only failures that say so are tried again."""
    backoff_s: float = 0.5
    """The pause before the n-th retry is drawn from 0 to backoff_s * 2**(n-1) seconds, at most 20; it stays
    short as long as the service answers others."""
    break_after: int | None = 20
    """So many failures in a row that say the service is not there hold all work back; None never does."""
    cool_s: float = 30.0
    """Seconds until one evaluation is let through to see whether it is back, and between such probes."""
    patience_s: float = 600.0
    """Seconds that work is held back; after that, evaluations fail with kind `circuit_open`."""
    max_usd: float | None = None
    """Spent (by `Score.cost`), every further evaluation fails with kind `budget`."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "timeout_s", "deadline_s", "cool_s", "patience_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Limits.{name} must be more than 0, got {getattr(self, name)!r}")
        if self.rpm is not None and self.rpm <= 0:
            raise ValueError(f"Limits.rpm must be more than 0 (or None for no limit), got {self.rpm!r}")
        if self.break_after is not None and self.break_after <= 0:
            raise ValueError(f"Limits.break_after must be more than 0 (or None), got {self.break_after!r}")
        if self.backoff_s < 0:
            raise ValueError(f"Limits.backoff_s must not be negative, got {self.backoff_s!r}")
