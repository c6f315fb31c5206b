"""Whose fault was it? Turns an exception from an evaluator into a failed score, never into a number.

    EvaluatorError                          the kind its author named
    TimeoutError                            timeout, retryable
    an HTTP error status (httpx, requests)  408 timeout, 429 rate_limited, 5xx server: retryable; else bug
    httpx and OS errors                     transport, retryable
    anything else                           bug

A missing file or a wrong password is an OS or HTTP error too, but it never heals by waiting: those are
bugs, and a few of them stop the run. Details say where it happened and are cleaned of secrets, because
they are stored with the rollouts.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path

from rft.errors import EvaluatorError
from rft.retry_after import retry_after_s
from rft.secrets import redact as redact
from rft.types import FailureKind, Score

_NEVER_HEALS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_HTTPX_MISUSE = ("UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "CookieConflict", "StreamError")
_OURS = (
    str(Path(__file__).parent),
    os.path.join(Path(__file__).parents[1], "evaluator", ""),
    os.path.join(Path(__file__).parents[1], "types.py"),
)
_LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))


def attribute(error: BaseException) -> Score:
    """The failed score for an exception that left `evaluate`."""
    if isinstance(error, EvaluatorError):
        return Score.failed(
            error.kind,
            redact(error.detail),
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
            hopeless=error.hopeless,
        )
    if isinstance(error, TimeoutError) or _is_httpx(error, "TimeoutException"):
        return Score.failed("timeout", _told(error), retryable=True)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return _http(status, error)
    if _is_httpx(error, *_HTTPX_MISUSE) or isinstance(error, _NEVER_HEALS):
        return _bug(error)
    if isinstance(error, OSError) or _is_httpx(error, "HTTPError"):
        return Score.failed("transport", _told(error), retryable=True)
    return _bug(error)


def _http(status: int, error: BaseException) -> Score:
    kinds: dict[int, FailureKind] = {408: "timeout", 429: "rate_limited"}
    kind = kinds.get(status, "server" if status >= 500 else None)
    if kind is None:
        return _bug(error)
    headers = getattr(getattr(error, "response", None), "headers", None)
    asked_s = retry_after_s(headers) if isinstance(headers, Mapping) else None
    return Score.failed(kind, f"HTTP {status}: {_told(error)}", retryable=True, retry_after_s=asked_s)


def _bug(error: BaseException) -> Score:
    return Score.failed("bug", f"{_told(error)}{_where(error)}")


def _told(error: BaseException) -> str:
    message = redact(str(error))
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _where(error: BaseException) -> str:
    """Like " (judge.py:12)": the innermost line that is not ours and, if there is one, not a library's."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_OURS)]
    if not frames:
        return ""
    frame = ([f for f in frames if not f.filename.startswith(_LIBRARIES)] or frames)[-1]
    return f" ({Path(frame.filename).name}:{frame.lineno})"


def _is_httpx(error: BaseException, *names: str) -> bool:
    """Whether it is one of httpx's exceptions, without importing httpx for those who do not use it."""
    return any(
        base.__module__.split(".")[0] == "httpx" and base.__name__ in names for base in type(error).__mro__
    )
