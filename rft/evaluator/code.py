"""What distinguishes two pieces of code, for fingerprints."""

from __future__ import annotations

import hashlib
import inspect
import json
from types import CodeType
from typing import Any


def source(thing: Any) -> str:
    """The source text of a class or function, or what its byte code says where there is no file."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # defined in a console or notebook, or built at run time
        functions = vars(thing).items() if isinstance(thing, type) else [(thing.__name__, thing)]
        return repr([(name, _byte_code(f.__code__)) for name, f in functions if inspect.isfunction(f)])


def _byte_code(code: CodeType) -> tuple[Any, ...]:
    """What distinguishes two functions, without line numbers and memory addresses."""
    constants = [
        _byte_code(c)
        if isinstance(c, CodeType)
        else repr(sorted(map(repr, c)) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return code.co_code.hex(), code.co_names, constants


def digest(*parts: Any) -> str:
    """16 hex digits of anything that JSON or `str` can tell apart."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
