"""Worker processes for evaluators that may never come back: each can be killed in the middle of a call.

An endless loop inside C code (a regular expression that backtracks, a power of huge numbers) holds the
interpreter's lock: no exception, signal handler or thread gets a word in. Only another process can end it.

Not `concurrent.futures` or loky, which lose the whole pool when one worker is killed; not `multiprocessing`
(nor pebble, which builds on it), which runs the user's script again in every worker. A fresh interpreter
gets the evaluator through a pipe, with cloudpickle, which also carries what was defined in a notebook.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from rft.errors import EvaluatorError, UserError
from rft.evaluator import Evaluator
from rft.scoring.threads import Threads
from rft.scoring.worker import Trouble
from rft.types import Rollout, Score

_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from rft.scoring.worker import main; main()"
_CLOSE_S = 5.0


class Processes:
    """At most `size` copies of an evaluator, each in a process of its own. Used from one event loop.

    Workers start when they are needed, and a killed one is replaced by need.
    """

    def __init__(self, evaluator: Evaluator, size: int) -> None:
        self._evaluator = evaluator
        self._slots = asyncio.Semaphore(size)
        self._threads = Threads(size, f"rft-worker-{evaluator.name}")
        self._idle: list[Worker] = []
        self._pickled = b""

    async def start(self) -> None:
        """Starts a first worker, to see whether it works.

        Raises UserError when the evaluator cannot be sent to a worker, else what its `setup` raised there.
        """
        # Imported only here, so that `import rft` stays quick.
        import cloudpickle

        try:
            evaluator = cloudpickle.dumps(self._evaluator)
            self._pickled = pickle.dumps((_homes(self._evaluator), evaluator))
        except Exception as error:  # whatever the pickling of somebody's attribute raises
            raise UserError(
                f"evaluator {self._evaluator.name} cannot be sent to a worker process: {error}; "
                "make what cannot be pickled in its `setup`, which runs there"
            ) from error
        async with self.worker():
            pass

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A worker for one call, ready. Raises what its `setup` raised, if it has to be started."""
        async with self._slots:
            worker = self._idle.pop() if self._idle else await self._started()
            try:
                yield worker
            finally:
                if worker.alive:
                    self._idle.append(worker)

    async def close(self) -> None:
        """Closes the copies and ends their processes. Raises the first failure of a `close`."""
        idle, self._idle = self._idle, []
        ends = await asyncio.gather(*(worker.close() for worker in idle), return_exceptions=True)
        self._threads.close()
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _started(self) -> Worker:
        worker = Worker(self._threads)
        try:
            _raise(await worker.exchange(self._pickled))
        except BaseException:
            worker.kill()
            await asyncio.to_thread(worker.reap)
            raise
        return worker


class Worker:
    """One process with one copy of the evaluator. Takes one call at a time."""

    def __init__(self, threads: Threads) -> None:
        # Here and not in a thread: Linux kills a worker when the thread that started it ends.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BEGIN, *map(str, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that what it starts can be killed with it
        )
        self._threads = threads
        self.alive = True

    async def judge(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """The scores of one call of the evaluator's entry. Cancelling kills the process, at once."""
        scores: list[Score] = await self.exchange(pickle.dumps(list(rollouts)))
        return scores

    async def exchange(self, message: bytes) -> Any:
        """Sends a message, waits for the answer. Raises EvaluatorError (sandbox) when the process dies."""
        try:
            return await self._threads.call(self._exchange, message)
        except asyncio.CancelledError:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends the process and those it started, whatever they are doing."""
        if self.alive:
            self.alive = False
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Waits for a killed process to be gone. Returns its exit code."""
        assert self._process.stdin and self._process.stdout
        code = self._process.wait()
        with suppress(OSError):  # bytes that it never read
            self._process.stdin.close()
        self._process.stdout.close()
        return code

    async def close(self) -> None:
        """Closes the evaluator and ends the process. Raises what its `close` raised."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                _raise(await self.exchange(pickle.dumps(None)))
        finally:
            self.kill()
            await asyncio.to_thread(self.reap)

    def _exchange(self, message: bytes) -> Any:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(message)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            self.kill()
            raise EvaluatorError("sandbox", f"the worker process {_end(self.reap())}") from error


def _homes(evaluator: Evaluator) -> dict[str, str | None]:
    """The files of the modules an evaluator is from, for a worker that could not import them by name."""
    names = {kind.__module__ for kind in type(evaluator).__mro__} | {evaluator.__module__}
    ours = {name.rsplit(".", up)[0] for name in names for up in range(name.count(".") + 1)}
    return {name: getattr(sys.modules.get(name), "__file__", None) for name in ours - {"__main__"}}


def _raise(trouble: Trouble) -> None:
    if isinstance(trouble, str):
        raise UserError(trouble)
    if trouble is not None:
        raise EvaluatorError(trouble.kind, trouble.detail, trouble.retryable, trouble.retry_after_s)


def _end(code: int) -> str:
    if code >= 0:
        return f"ended by itself with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}"
