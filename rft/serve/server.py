"""An HTTP server in a thread of its own, beside whatever the process does otherwise.

`rft train --serve` trains in the main thread and `rft serve` waits there; both run this. The port is bound
before any model is loaded, so that a port in use costs a second instead of a minute; clients that connect
meanwhile wait in the socket's queue and are answered when the model is there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
from collections.abc import Awaitable, Callable

import uvicorn
from starlette.types import ASGIApp

from rft.errors import ServeError
from rft.recipe.schema import ServeSpec
from rft.serve.access import read_key

log = logging.getLogger("rft.serve")

_GRACE_S = 5


class _ToEngineLog(logging.Handler):
    """Sends uvicorn's records where vLLM's go: what a client did wrong is no news for the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger("vllm.uvicorn").handle(record)


_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"engine": {"()": _ToEngineLog}},
    "loggers": {"uvicorn": {"handlers": ["engine"], "level": "WARNING", "propagate": False}},
}


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Port 0 takes a free one.

    Raises ServeError when the port is in use or may not be bound.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise ServeError(
            f"cannot serve on {host}:{port}: {error.strerror or error}; "
            "stop what listens there, or take another port (0 takes a free one)"
        ) from error


def listen(spec: ServeSpec, note: Callable[[str], None]) -> socket.socket:
    """A listening socket for the recipe's `serve:` section. Call it before anything loads.

    Args:
        note: told when anyone who reaches the port may use the model.

    Raises ServeError when the port cannot be had, or the key's environment variable is not set.
    """
    key = read_key(spec.api_key_env)
    sock = bind(spec.host, spec.port)
    if key is None and not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
        note(
            f"warning: {spec.host} is reachable from other machines and no key is asked for; "
            "set serve.api_key_env"
        )
    return sock


class Server:
    """Serves an ASGI app on a bound socket until `stop()`."""

    def __init__(self, build: Callable[[], Awaitable[ASGIApp]], sock: socket.socket) -> None:
        """Args:
        build: makes the app, on the server's own event loop.
        sock: from `bind`; closed by `stop()`.
        """
        self._build = build
        self._socket = sock
        self.url = _url(sock)
        """Where clients on this machine find it, without `/v1`."""
        self._uvicorn: uvicorn.Server | None = None
        self._error: BaseException | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rft-serve", daemon=True)

    def start(self) -> None:
        """Returns when requests are answered. Raises what building the app raised."""
        self._thread.start()
        self._up.wait()
        if self._error is not None:
            self._socket.close()
            raise self._error

    def stop(self) -> None:
        """Refuses new connections, lets requests in flight finish for a few seconds, aborts the rest."""
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True
            self._thread.join(timeout=_GRACE_S + 10)
        self._socket.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # nothing above this frame could report it
            self._error = error
            if self._up.is_set():
                log.exception("the HTTP server stopped")
        finally:
            self._up.set()

    async def _serve(self) -> None:
        config = uvicorn.Config(
            await self._build(),
            # vLLM's lifespan freezes the garbage collector's view of the whole heap, the trainer's included.
            lifespan="off",
            log_config=_LOGGING,
            access_log=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._uvicorn = uvicorn.Server(config)
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        while not (self._uvicorn.started or serving.done()):
            await asyncio.sleep(0.01)
        self._up.set()
        await serving


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
