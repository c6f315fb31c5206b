"""Who may ask: one bearer token for everything but the health check.

vLLM's own key guards `/v1` and leaves other routes that generate or tokenize open, so it is not used here.
`/health` stays open because load balancers send no key and it tells nothing; `/metrics` tells model names and
traffic, and Prometheus can send a bearer token, so it is guarded.
"""

from __future__ import annotations

import hmac
import os

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rft.errors import ServeError

_OPEN = ("/health", "/ping")


def read_key(variable: str | None) -> str | None:
    """The key that clients must send, from the environment; None when no variable is named.

    Raises ServeError when the variable is named but unset or empty: that would open the endpoint to everyone.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise ServeError(
            f"serve.api_key_env names {variable}, which is not set; "
            f"export {variable}=... or leave api_key_env out"
        )
    return key


class RequireKey:
    """ASGI middleware: `Authorization: Bearer <key>`, compared in constant time, or 401."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what carries the key; browsers' preflight requests cannot and are let through."""
        if scope["type"] == "lifespan" or scope.get("method") == "OPTIONS" or scope["path"] in _OPEN:
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("authorization", "")
        if hmac.compare_digest(given.encode(), self._expected):
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        error = {
            "message": "Incorrect API key provided.",
            "type": "invalid_request_error",
            "code": "invalid_api_key",
        }
        await JSONResponse({"error": error}, status_code=401)(scope, receive, send)
