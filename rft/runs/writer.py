"""A checkpoint is written while the run goes on: by one thread, which says when it has read all it needs.

Parameters and optimizer state stand still from one optimizer step to the next. So nothing is copied: the
thread reads them where they are, and whoever writes them next waits until it has. Hashing, syncing and
renaming take as long again and hold nobody up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

Job = Callable[[Callable[[], None]], object]
"""Is given what to call as soon as everything it reads may change again."""


class BackgroundWriter:
    """One job at a time. A job's error is raised once, by whichever of these methods comes next."""

    def __init__(self) -> None:
        self.blocked_s = 0.0
        """Seconds that others have waited in these methods so far."""
        self._thread: threading.Thread | None = None
        self._has_read = threading.Event()
        self._error: BaseException | None = None

    def start(self, job: Job) -> None:
        """Runs `job` in a thread, once the one before is done. Raises what that one raised."""
        self.finish()
        self._has_read.clear()
        # A daemon: who interrupts even the wait for it wants to leave. The next one removes what it left.
        self._thread = threading.Thread(target=self._run, args=(job,), name="rft-checkpoint", daemon=True)
        self._thread.start()

    def wait_until_read(self) -> None:
        """Returns when what the job reads may be written. Raises what the job raised until now."""
        if self._thread is not None:
            self._wait(self._has_read.wait)
            self._complain()

    def finish(self) -> None:
        """Returns when the job is done. Raises what it raised."""
        if self._thread is not None:
            self._wait(self._thread.join)
            self._thread = None
            self._complain()

    def _run(self, job: Job) -> None:
        try:
            job(self._has_read.set)
        except BaseException as error:
            self._error = error
        finally:
            self._has_read.set()

    def _wait(self, wait: Callable[[], object]) -> None:
        began = time.perf_counter()
        try:
            wait()
        finally:
            self.blocked_s += time.perf_counter() - began

    def _complain(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
