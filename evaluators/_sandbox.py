"""Runs a model's Python in a process of its own, bounded, and says whose fault an ending is.

This is not a security boundary. It keeps a model under training from cheating and from wrecking the run by
accident; it is one kernel bug away from the host, so code from people with intent belongs in a machine apart.

Always: limits on processor time, memory, file sizes, open files and processes; a wall clock; a cap on
output; an empty environment, so that no key in it leaks; a temporary folder that is thrown away.
Where the kernel lets us make namespaces (`namespaces`, or bubblewrap where it is installed): also no network,
no view of other processes, and of the file system only the Python installation, read-only; so neither the
data set with the answers nor a key in a home folder can be read.
Where it does not (`bare`: most unprivileged containers, macOS): the code runs as the current user and can do
what this user can, network included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from rft.errors import EvaluatorError
from rft.evaluators import _sandbox_inside as inside
from rft.evaluators._sandbox_isolation import START_S, best, environment, frame

__all__ = ["Bounds", "Finished", "Tested", "best", "run_program", "run_tests"]

_PIPES_S = 2.0
"""Seconds after its end that somebody it left behind (`bare` only) may hold a program's pipes."""


@dataclass(frozen=True)
class Bounds:
    """What one program may use."""

    seconds: float = 10.0
    memory_mb: int = 512
    """Address space of each process, which counts more than what is in use."""
    processes: int = 16
    file_mb: int = 16
    output_chars: int = 100_000

    def rlimits(self) -> dict[str, int]:
        """As the names and units of setrlimit."""
        return {
            "CPU": int(self.seconds) + 1,
            "AS": self.memory_mb << 20,
            "FSIZE": self.file_mb << 20,
            "NPROC": self.processes,
            "NOFILE": 64,
            "CORE": 0,
        }


@dataclass(frozen=True)
class Finished:
    """How a script ended: what it wrote, and what was wrong with its ending, if anything."""

    output: str
    why: str | None


async def run_program(source: str, stdin: str, bounds: Bounds, *, packages: bool = False) -> Finished:
    """Runs a script to its end. Raises EvaluatorError("sandbox") when the host could not run it."""
    job = {"job": "program", "source": source, "limits": bounds.rlimits()}
    async with _process(job, packages) as process:
        feeding = asyncio.create_task(_feed(process, stdin))
        output = bytearray()
        try:
            async with asyncio.timeout(bounds.seconds):
                while piece := await _stdout(process).read(1 << 16):
                    output += piece
                    if len(output) > bounds.output_chars:
                        return Finished("", f"wrote more than {bounds.output_chars} bytes")
                code = await process.wait()
        except TimeoutError:
            return Finished("", "out of time")
        finally:
            feeding.cancel()
    return Finished(output.decode(errors="replace"), None if code == 0 else "ended with an error")


@dataclass
class Tested:
    """What became of each test so far: None for passed, else why not."""

    total: int = 0
    results: list[str | None] = field(default_factory=list)
    broken: str | None = None
    """The test file itself cannot be read."""
    unloaded: str | None = None
    """What loading the program raised."""
    ended: str | None = None
    """Why there are fewer results than tests."""

    @property
    def passed(self) -> int:
        """Tests that passed."""
        return sum(why is None for why in self.results)


async def run_tests(
    source: str,
    tests: Sequence[str],
    bounds: Bounds,
    *,
    entry_point: str | None = None,
    packages: bool = False,
) -> Tested:
    """Runs test files against a program, each in a process of its own that cannot see the other.

    Raises EvaluatorError("sandbox") when the host could not run them, or the tests hang on their own.
    """
    limits = bounds.rlimits()
    judging = {"job": "tests", "sources": list(tests), "entry_point": entry_point, "limits": limits}
    serving = {"job": "serve", "source": source, "limits": limits}
    tested = Tested(ended="out of time")
    async with _process(judging, packages) as judge, _process(serving, packages) as program:
        relay = _Relay(judge, program, tested)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(bounds.seconds):
                await relay.run()
                tested.ended = None
    if tested.ended and relay.program_loaded and not relay.asked:
        raise EvaluatorError("sandbox", f"the tests asked nothing of the program in {bounds.seconds:g} s")
    return tested


class _Relay:
    """Carries the tests' questions to the program and its answers back, a line each way."""

    def __init__(self, judge: Process, program: Process, tested: Tested) -> None:
        self.judge, self.program, self.tested = judge, program, tested
        self.program_loaded = self.asked = False

    async def run(self) -> None:
        """Until the tests are done. Raises EvaluatorError when their process ends before."""
        await self._loaded()
        while line := await _stdout(self.judge).readline():
            message = json.loads(line)
            if "ask" in message:
                self.asked = True
                await _write(self.judge, await self._answer(json.dumps(message["ask"]).encode() + b"\n"))
            elif "passed" in message:
                self.tested.results.append(None if message["passed"] else message["why"])
            elif "done" in message:
                return
            else:
                self.tested.total = message.get("tests", 0)
                self.tested.broken = message.get("broken")
                if self.tested.broken:
                    return
        raise EvaluatorError("sandbox", "the process that runs the tests ended early", retryable=True)

    async def _loaded(self) -> None:
        try:
            self.tested.unloaded = (
                str(json.loads(await _stdout(self.program).readline())["broken"] or "") or None
            )
        except (ValueError, TypeError, KeyError):  # it ended, or wrote into the channel
            self.tested.unloaded = "ended while loading"
        self.program_loaded = True

    async def _answer(self, question: bytes) -> bytes:
        try:
            await _write(self.program, question)
            answer = await _stdout(self.program).readline()
        except (ValueError, ConnectionError):  # a line without end, or the process is gone
            answer = b""
        if not answer.endswith(b"\n"):
            _kill(self.program)
            return b'{"raised": "the program ended"}\n'
        return answer


@asynccontextmanager
async def _process(job: dict[str, Any], packages: bool) -> AsyncIterator[Process]:
    """A process that has taken its job, given up what it must, and not yet run any of the model's code."""
    way = best()
    with contextlib.ExitStack() as stack:
        bare = way.name == "bare"
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="rft-code-")) if bare else "/tmp"
        try:
            process = await asyncio.create_subprocess_exec(
                *way.command(packages),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment(home),
                cwd=home,
                start_new_session=True,
                limit=inside.MAX_LINE,
            )
        except OSError as error:
            raise EvaluatorError("sandbox", f"cannot start a process: {error}", retryable=True) from error
        try:
            await _ready(process, frame(job))
            yield process
        finally:
            await _end(process)


async def _ready(process: Process, frame: bytes) -> None:
    try:
        async with asyncio.timeout(START_S):
            with contextlib.suppress(ConnectionError):
                await _write(process, frame)
            if await _stdout(process).readline() == inside.READY:
                return
            assert process.stderr is not None
            said = (await process.stderr.read()).decode(errors="replace").strip()
    except TimeoutError:
        said = f"not ready within {START_S:g} s"
    raise EvaluatorError("sandbox", f"the sandbox did not start: {said[-300:]}", retryable=True)


async def _feed(process: Process, text: str) -> None:
    """Writes a script's input; one that does not read it is free not to."""
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        await _write(process, text.encode(errors="replace"))
        process.stdin.close()


async def _write(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    await process.stdin.drain()


def _stdout(process: Process) -> asyncio.StreamReader:
    assert process.stdout is not None
    return process.stdout


async def _end(process: Process) -> None:
    """Kills it and reads its pipes to their end, since asyncio only then lets go of them."""
    assert process.stdin is not None
    _kill(process)
    process.stdin.close()
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_PIPES_S):
            await process.communicate()


def _kill(process: Process) -> None:
    """Ends it with all it started: its process group, and where it has a namespace, everything in there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
