"""Threads for evaluators written as plain functions.

Not `concurrent.futures`: a Python thread cannot be killed, so a function that hangs would hold its worker
for good and, since that pool's threads are joined at exit, keep the process from ending. Here a call that
is given up on loses its worker, a new one takes the place, and all are daemons.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any


class _Call:
    """One function call on its way through a worker. `state` changes under the pool's lock only."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[tuple[Any, BaseException | None]] = self.loop.create_future()
        self.state = "queued"  # then running, then done; or given_up

    def run(self) -> tuple[Any, BaseException | None]:
        try:
            return self.function(*self.args), None
        except BaseException as error:  # travels to the awaiting task, which decides whose fault it is
            return None, error

    def deliver(self, outcome: tuple[Any, BaseException | None]) -> None:
        if not self.done.done():
            self.done.set_result(outcome)


class Threads:
    """At most `size` calls at a time, each in a daemon thread. Used from one event loop."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._workers = 0
        self._pending = 0
        self.stuck = 0
        """Threads that still run a call nobody waits for."""

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)` in a thread. Cancelling gives the call up; its thread ends when it returns."""
        call = _Call(function, args)
        with self._lock:
            self._pending += 1
            if self._pending > self._workers and self._workers < self._size:
                self._workers += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._queue.put(call)
        try:
            value, error = await call.done
        except asyncio.CancelledError:
            self._give_up(call)
            raise
        finally:
            with self._lock:
                self._pending -= 1
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Lets idle workers end. Calls still running are left behind."""
        with self._lock:
            for _ in range(self._workers):
                self._queue.put(None)
            self._workers = 0

    def _give_up(self, call: _Call) -> None:
        with self._lock:
            if call.state == "running":
                self._workers -= 1
                self.stuck += 1
            call.state = "given_up"

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            with self._lock:
                if call.state == "given_up":
                    continue
                call.state = "running"
            outcome = call.run()
            with self._lock:
                if call.state == "given_up":
                    self.stuck -= 1
                    return
                call.state = "done"
            try:
                call.loop.call_soon_threadsafe(call.deliver, outcome)
            except RuntimeError:  # the loop has closed; nobody is left to tell
                return
