"""Reading answers and references, shared by the catalogue.

Everything here takes time linear in the text: a model's answer may be long and hostile, and a pattern that
backtracks would hold up every other evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4}(?!\w))?")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\D|$)")
_DASHES = str.maketrans({"\u2212": "-", "\u2013": "-"})


def accepted(reference: Any) -> list[str]:
    """The answers a reference allows, as text: one, or each of a list."""
    many = isinstance(reference, Sequence) and not isinstance(reference, str)
    return [str(one) for one in (reference if many else [reference])]


def numbers(text: str) -> list[float]:
    """The finite numbers in a text, in order.

    >>> numbers("1,234 apples, 2 pears: -3.5e2; then 1,2,3")
    [1234.0, 2.0, -350.0, 1.0, 2.0, 3.0]
    """
    found: list[float] = []
    for match in _NUMBER.finditer(text.translate(_DASHES)):
        token = match.group()
        pieces = [token.replace(",", "")] if _THOUSANDS.match(token) else token.split(",")
        found.extend(float(piece) for piece in pieces if piece not in ("", "+", "-"))
    return [number for number in found if math.isfinite(number)]


def number(value: Any) -> float | None:
    """A reference as one finite number; None when it is not one."""
    if isinstance(value, bool):
        return None
    try:
        result = float(str(value).replace(",", "").translate(_DASHES))
    except ValueError:
        return None
    return result if math.isfinite(result) else None


def code_of(text: str) -> str:
    """The last fenced block of an answer, also one that was never closed; without any, the whole answer.

    >>> code_of("First:\\n```python\\nx = 1\\n```\\nor\\n```\\nx = 2\\n```")
    'x = 2'
    """
    blocks: list[list[str]] = []
    inside = False
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            inside = not inside
            if inside:
                blocks.append([])
        elif inside:
            blocks[-1].append(line)
    return "\n".join(blocks[-1]) if blocks else text
