"""The inside of a worker process: one copy of an evaluator, one call at a time.

Speaks pickle over what were its standard input and output; anything the evaluator prints goes to standard
error. It shares nothing with its parent but that pipe, so it can be killed at any moment.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import Any, BinaryIO

from rft.errors import UserError
from rft.evaluator import Evaluator
from rft.scoring.attribution import attribute
from rft.scoring.entry import as_scores, awaited, call, expected
from rft.types import Failure, Rollout, Score

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)

Trouble = Failure | str | None
"""Why `setup` or `close` failed: whose fault it was, or the words of a UserError."""


def main() -> None:
    """Serves until the parent says None or is gone."""
    _die_with(os.getppid())
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    with asyncio.Runner() as loop, suppress(EOFError, BrokenPipeError):  # the parent is gone
        _serve(requests, replies, loop)


def _serve(requests: BinaryIO, replies: BinaryIO, loop: asyncio.Runner) -> None:
    def reply(answer: Any) -> None:
        replies.write(pickle.dumps(answer))
        replies.flush()

    try:
        homes, pickled = pickle.load(requests)
        sys.meta_path.append(_Homes(homes))
        evaluator: Evaluator = pickle.loads(pickled)
        loop.run(awaited(evaluator.setup()))
    except (Exception, SystemExit) as error:
        return reply(_trouble(error))
    reply(None)
    while (rollouts := pickle.load(requests)) is not None:
        scores = _judge(evaluator, rollouts, loop)
        try:
            reply(scores)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            reply([attribute(error)] * expected(evaluator, rollouts))
    try:
        loop.run(awaited(evaluator.close()))
    except (Exception, SystemExit) as error:
        return reply(_trouble(error))
    reply(None)


def _judge(evaluator: Evaluator, rollouts: Sequence[Rollout], loop: asyncio.Runner) -> list[Score]:
    try:
        answer = call(evaluator, rollouts)
        answer = loop.run(awaited(answer)) if evaluator.is_async or hasattr(answer, "__await__") else answer
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        return [attribute(error)] * expected(evaluator, rollouts)
    return as_scores(evaluator, answer, rollouts)


class _Homes(MetaPathFinder):
    """Finds what nobody else finds, as in a folder that is not on the path, where the parent found it."""

    def __init__(self, files: Mapping[str, str | None]) -> None:
        self._files = files

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name not in self._files:
            return None
        file = self._files[name]
        return spec_from_file_location(name, file) if file else ModuleSpec(name, None, is_package=True)


def _trouble(error: BaseException) -> Trouble:
    return str(error) if isinstance(error, UserError) else attribute(error).failure


def _die_with(parent: int) -> None:
    """An evaluator in an endless loop cannot notice that its parent is gone; Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went while we asked
            sys.exit(1)
