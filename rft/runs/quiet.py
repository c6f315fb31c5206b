"""Who may write to the terminal: rft does, the libraries do not.

vLLM, transformers, torch and oneDNN talk through loggers, warnings, progress bars and C code that writes to
file descriptors 1 and 2. `Quiet` points the descriptors themselves at a log, so that nothing escapes it, and
`terminal` gives rft's own output a second handle on what they pointed to before.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, TextIO

from rft.errors import UserError


def terminal(name: Literal["stdout", "stderr"]) -> TextIO:
    """The process's own stdout or stderr, out of reach of `Quiet` and `reserved_stdout`."""
    stream: TextIO = getattr(sys, name)
    try:
        descriptor = os.dup(stream.fileno())
    except (AttributeError, io.UnsupportedOperation):  # a notebook or a test runner put its own object there
        return stream
    return open(descriptor, "w", encoding=stream.encoding, errors="replace", buffering=1)


@contextlib.contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """Yields stdout for the caller's own lines; whatever else is written to it meanwhile goes to stderr."""
    out = terminal("stdout")
    _flush()
    python, descriptor = sys.stdout, os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield out
    finally:
        out.flush()
        _flush()
        os.dup2(descriptor, 1)
        os.close(descriptor)
        sys.stdout = python


class Quiet:
    """Sends all output of the process, C code and subprocesses included, to a log file while the block runs.

    An unexpected exception leaves its traceback in the log, and the log's path as a note on the exception.
    With `debug` nothing is redirected; the traceback is logged all the same.
    """

    def __init__(self, log: Path, *, debug: bool = False) -> None:
        self.log = log
        self._debug = debug

    def __enter__(self) -> Quiet:
        if self._debug:
            return self
        _flush()
        # Left open on purpose: loggers made inside keep it, and what they say later belongs in the log too.
        self._file = open(self.log, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
        self._python = (sys.stdout, sys.stderr)
        self._descriptors = (os.dup(1), os.dup(2))
        os.dup2(self._file.fileno(), 1)
        os.dup2(self._file.fileno(), 2)
        sys.stdout = sys.stderr = self._file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._debug:
            _flush()
            for saved, target in zip(self._descriptors, (1, 2), strict=True):
                os.dup2(saved, target)
                os.close(saved)
            sys.stdout, sys.stderr = self._python
        if isinstance(error, Exception) and not isinstance(error, UserError):
            with (
                contextlib.suppress(OSError),  # a full disk, perhaps the very error to report
                open(self.log, "a", encoding="utf-8", errors="backslashreplace") as log,
            ):
                traceback.print_exception(error, file=log)
            error.add_note(f"log: {self.log}")


def _flush() -> None:
    """Empties Python's and C's buffers, so that each text goes where stdout pointed when it was written."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):  # closed, or its reader has gone
            stream.flush()
    ctypes.CDLL(None).fflush(None)
