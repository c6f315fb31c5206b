"""How long a service asks to be left alone."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Any

_LONGEST_WAIT_S = 86_400.0


def retry_after_s(headers: Mapping[str, Any], now: float | None = None) -> float | None:
    """Seconds to wait, from `Retry-After` in either form (RFC 9110, 10.2.3), at most a day.

    None where it is missing or tells nothing readable.

    Args:
        headers: of a response; looked up as its client does, mostly without regard to case.
        now: seconds since the epoch, to count a date from; the clock's when None.

    >>> retry_after_s({"Retry-After": "7"})
    7.0
    """
    text = str(headers.get("Retry-After", "")).strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return min(float(text), _LONGEST_WAIT_S)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return min(max(0.0, when.timestamp() - (time.time() if now is None else now)), _LONGEST_WAIT_S)
