"""Reading answers and references, shared by the catalogue.

Everything here takes time linear in the text: a model's answer may be long and hostile, and a pattern that
backtracks would hold up every other evaluation.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4}(?!\w))?")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\D|$)")
_BETWEEN = re.compile(r"(?:[\s,;|/&]|\bor\b|\band\b)*", re.IGNORECASE)
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


def ends_in_several(text: str) -> bool:
    """Whether a text ends its numbers with a list of them, so that no single one is the answer.

    >>> [ends_in_several(text) for text in ("3, 4 or 5", "2 + 3 = 5", "1 2 3: so 6", "1,234", "1,2", "1/2")]
    [True, False, False, False, True, True]
    """
    text = text.translate(_DASHES)
    before = last = None
    for match in _NUMBER.finditer(text):
        before, last = last, match
    if last is None:
        return False
    alone = last.group().rstrip(",")
    if "," in alone and not _THOUSANDS.match(alone):
        return True
    return before is not None and bool(_BETWEEN.fullmatch(text, before.end(), last.start()))


def number(value: Any) -> float | None:
    """A reference as one finite number; None when it is not one."""
    if isinstance(value, bool):
        return None
    try:
        result = float(str(value).replace(",", "").translate(_DASHES))
    except ValueError:
        return None
    return result if math.isfinite(result) else None


class NotJSON:
    """What `json_of` gives for text that is not JSON, as None is a JSON value."""


def json_of(text: str) -> Any:
    """The JSON value that is the whole text, alone or inside one ``` fence; `NotJSON` when it is none.

    Strict where Python is not: NaN and Infinity are no JSON.

    >>> json_of('```json\\n{"a": [1]}\\n```'), json_of("Sure: {}") is NotJSON
    ({'a': [1]}, True)
    """
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and len(text) >= 6:
        text = text[3:-3].strip().removeprefix("json")
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):  # nested deeper than Python's stack: the model's fault too
        return NotJSON


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def same_json(a: Any, b: Any) -> bool:
    """Equality as JSON has it: 1 is 1.0, true is not 1, a tuple is a list."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same_json(one, other) for one, other in zip(a, b, strict=True))
    return bool(a == b)


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
