"""What a runner tells an operator, by name, and each in a sentence.

    breaker_opened            origin, why, probe_in_s, gives_up_after_s     work is held back
    breaker_closed            origin, paused_s                              and goes on
    origin_limits_tightened   origin, evaluator, concurrency, rpm           two evaluators, one service
    evaluator_retry           evaluator, attempt, why, wait_s               too many to keep: counted instead
    evaluator_close_failed    evaluator, why

A name that has no sentence here is told with its fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SENTENCES = {
    "breaker_opened": "evaluations by {origin} are held back: {why}; trying again every {probe_in_s:.0f} s, "
    "giving up after {gives_up_after_s:.0f} s",
    "breaker_closed": "{origin} answers again after {paused_s:.0f} s; evaluations go on",
    "origin_limits_tightened": "{evaluator} shares {origin}: the stricter limits hold for all "
    "(concurrency {concurrency}, rpm {rpm})",
    "evaluator_close_failed": "{evaluator} could not be closed: {why}",
}
_COUNTED = {"evaluator_retry"}


def in_words(name: str, fields: Mapping[str, Any]) -> str | None:
    """The event as a sentence; None for one that is counted, not told.

    >>> in_words("evaluator_close_failed", {"evaluator": "judge", "why": "KeyError"})
    'judge could not be closed: KeyError'
    """
    if name in _COUNTED:
        return None
    if name in _SENTENCES:
        return _SENTENCES[name].format(**fields)
    told = ", ".join(f"{key} {value}" for key, value in fields.items())
    return f"{name.replace('_', ' ')}: {told}"
