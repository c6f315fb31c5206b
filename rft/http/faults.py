"""What an answer that is not the promised one means, and whether asking again may help.

    2xx                     the answer
    3xx                     hopeless: redirects are not followed, they would carry credentials elsewhere
    401, 403, 404, 405      hopeless: a wrong token or address never heals by waiting
    408                     timeout, retryable
    425, 429                rate_limited, retryable, no sooner than Retry-After
    5xx                     server, retryable, no sooner than Retry-After
    any other 4xx           bug: we sent what the service does not take
    no answer in time       timeout, retryable
    no connection, or cut   transport, retryable

A bug is masked like every failure, and a few of them stop the run; a hopeless one stops it alone. Whether a
retryable failure is tried again is decided by whoever runs the evaluator. Details are redacted, as they are
stored.
"""

from __future__ import annotations

from collections.abc import Collection

import httpx

from rft.errors import EvaluatorError
from rft.retry_after import retry_after_s
from rft.secrets import hide, redact
from rft.types import FailureKind

_PASSING: dict[int, FailureKind] = {408: "timeout", 425: "rate_limited", 429: "rate_limited"}
_HOPELESS = (401, 403, 404, 405)
_MISUSE = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
_EXCERPT = 200


def fault_of(response: httpx.Response, credentials: Collection[str] = ()) -> EvaluatorError | None:
    """What a response's status means; None for 2xx.

    Args:
        credentials: the names of the secrets that were sent, to say which one was refused.
    """
    status = response.status_code
    if response.is_success:
        return None
    told = f"HTTP {status} from {response.url.host}"
    kind = _PASSING.get(status, "server" if status >= 500 else None)
    if kind is not None:
        asked_s = retry_after_s(response.headers)
        return EvaluatorError(kind, f"{told}: {excerpt(response)}", retryable=True, retry_after_s=asked_s)
    hopeless = status in _HOPELESS or response.is_redirect
    return EvaluatorError("bug", f"{told}: {_never_heals(response, credentials)}", hopeless=hopeless)


def broken(error: httpx.RequestError, host: str) -> EvaluatorError:
    """What an exception of httpx means, for a request to `host`."""
    told = f"{type(error).__name__} from {host}" + (f": {redact(str(error))}" if str(error) else "")
    if isinstance(error, _MISUSE):
        return EvaluatorError("bug", told)
    if isinstance(error, httpx.DecodingError):
        return EvaluatorError("bad_response", told, retryable=True)
    return EvaluatorError("transport", told, retryable=True)


def excerpt(response: httpx.Response) -> str:
    """The beginning of the body on one line, redacted."""
    text = redact(" ".join(response.text.split())) or "(no body)"
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "..."


def _never_heals(response: httpx.Response, credentials: Collection[str]) -> str:
    status, url = response.status_code, response.request.url.copy_with(query=None)
    if response.is_redirect or 300 <= status < 400:
        where = hide(response.headers.get("location", "somewhere else")).partition("?")[0]
        return f"it redirects to {where[:_EXCERPT]}, which is not followed; set url to the final address"
    if status in (401, 403):
        sent = ", ".join(sorted(credentials))
        what = f"it refuses {sent}; check the value" if sent else "it wants credentials and none were sent"
        return f"{what} ({excerpt(response)})"
    if status == 404:
        return f"there is nothing at {redact(str(url))}; check url"
    if status == 405:
        return f"{redact(str(url))} does not take {response.request.method}; check url and method"
    return f"it does not take this request: {excerpt(response)}"
