"""A program against unit tests, in a sandbox: the share of tests that pass."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rft.errors import UserError
from rft.evaluator import Case, Evaluator, Limits
from rft.evaluators import _sandbox
from rft.evaluators._answers import code_of
from rft.types import Rollout, Score

_LONGEST = 200_000
_ADD = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]
_ECHO = [{"input": "3\n", "output": "9"}, {"input": "-2\n", "output": "4"}]


class CodeTests(Evaluator):
    """The share of unit tests that the answer's Python passes (with `partial: false`, 1 or 0).

    The program is the last fenced block, or the whole answer. The reference is one of
    - test code, one text or a list: each `assert` and each function `test_...` is a test, and HumanEval's
      `check(candidate)` is one when the task has a field `entry_point`; a name that the tests do not define
      stands for the program's;
    - [{"input": ..., "output": ...}]: the program is a script, its output is compared line by line, white
      space at the ends of lines left aside.

    A program that loops, crashes, leaves early or writes without end fails its tests; a sandbox that cannot
    be started masks the sample. Expected results are never in the process of the program, so they cannot be
    printed, skipped, patched or looked up. Between tests and program go plain values only (numbers, text,
    lists, dicts, sets, bytes), and objects of the program's own classes.

    The sandbox is no security boundary; `rft.evaluators._sandbox` says what holds where. The metric
    `isolated` is 1 where network, files and other processes are out of reach; `isolation: strong` refuses to
    run where they are not.

    Cannot see: what no test asks; a program that guesses well where tests only ask for yes or no; speed,
    style, or changes that a function makes to its arguments.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        partial: bool = True
        timeout_s: float = Field(10.0, gt=0, le=600)
        """Seconds for all tests together."""
        memory_mb: int = Field(512, ge=64)
        packages: bool = False
        """Whether the program may import what is installed here (numpy, say) beside the standard library."""
        isolation: Literal["best", "strong"] = "best"

    name = "code_tests"
    requires = frozenset({"reference"})
    cases = (
        Case("Write add(a, b).", "def add(a, b):\n    return a + b", expect=1.0, reference=_ADD),
        Case(
            "Write add(a, b).",
            "So:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.",
            expect=1.0,
            reference="\n".join(_ADD),
        ),
        Case("Write add(a, b).", "def add(a, b):\n    return abs(a) + b", expect=0.5, reference=_ADD),
        Case(
            "Write add(a, b).",
            "def add(a, b):\n    return abs(a) + b",
            expect=0.0,
            reference=_ADD,
            config={"partial": False},
        ),
        Case("Write add(a, b).", "def add(a, b): return 3", expect=0.5, reference=_ADD),
        Case("Write add(a, b).", "import os\nos._exit(0)", expect=0.0, reference=_ADD),
        Case("Write add(a, b).", "print('2 passed in 0.01s')", expect=0.0, reference=_ADD),
        Case(
            "Write add(a, b).",
            "class Yes:\n    def __eq__(self, other): return True\ndef add(a, b): return Yes()",
            expect=0.0,
            reference=_ADD,
        ),
        Case("Write add(a, b).", "I cannot do that.", expect=0.0, reference=_ADD),
        Case("Write add(a, b).", "", expect=0.0, reference=_ADD),
        Case(
            "Write add(a, b).",
            "def add(a, b):\n    while True: pass",
            expect=0.0,
            reference=_ADD,
            config={"timeout_s": 0.5},
        ),
        Case(
            "Write double(x).",
            "def double(x):\n    return x + x",
            expect=1.0,
            reference="def check(f):\n    assert f(2) == 4\n    assert f('a') == 'aa'",
            fields={"entry_point": "double"},
        ),
        Case("Square the input.", "print(int(input()) ** 2)", expect=1.0, reference=_ECHO),
        Case("Square the input.", "print(9)", expect=0.5, reference=_ECHO),
        Case("Write add(a, b).", "def add(a, b): return a + b", expect="unscored", reference="assert add(("),
        Case("Write add(a, b).", "def add(a, b): return a + b", expect="unscored", reference="x = 1"),
        Case("Write add(a, b).", "def add(a, b): return a + b", expect="unscored", reference=[]),
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        whole = (
            self.config.timeout_s + 60
        )  # the sandbox's own clock decides; this one is for a host that hangs
        self.limits = Limits(concurrency=os.cpu_count() or 1, timeout_s=whole, deadline_s=2 * whole)

    async def setup(self) -> None:
        """Finds out what this machine can isolate. Raises UserError when that is less than was asked for."""
        way = await asyncio.to_thread(_sandbox.best)
        if self.config.isolation == "strong" and not way.strong:
            raise UserError(
                "code_tests: isolation is strong, but neither unshare nor bubblewrap works on this machine; "
                "allow user namespaces, or set isolation: best to run programs with your user's rights"
            )

    async def evaluate(self, rollout: Rollout) -> Score:
        tests = _tests(rollout.task.reference)
        if not tests:
            return Score.skip("the reference holds no tests")
        source = code_of(rollout.text)
        if not source.strip() or len(source) > _LONGEST:
            return Score(0.0, reason="no program" if not source.strip() else "a program too long to run")
        if all(isinstance(test, str) for test in tests):
            return await self._called(source, tests, rollout.task.metadata.get("entry_point"))
        if all(isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in tests):
            return await self._run(source, tests)
        return Score.skip('the tests are neither all code nor all {"input": ..., "output": ...}')

    async def _called(self, source: str, tests: Sequence[str], entry_point: str | None) -> Score:
        tested = await _sandbox.run_tests(
            source, tests, self._bounds(), entry_point=entry_point, packages=self.config.packages
        )
        if tested.broken or not tested.total:
            return Score.skip(f"the tests cannot be read: {tested.broken or 'there are none'}"[:200])
        why = next((why for why in tested.results if why), tested.ended)
        if why and tested.unloaded:
            why = f"{why} (loading the program: {tested.unloaded})"
        return self._score(tested.passed, tested.total, why)

    async def _run(self, source: str, tests: Sequence[Mapping[str, Any]]) -> Score:
        passed, why = 0, None
        until = time.monotonic() + self.config.timeout_s
        for test in tests:
            left = until - time.monotonic()
            if left <= 0:
                why = why or "out of time"
                break
            done = await _sandbox.run_program(
                source, str(test["input"]), self._bounds(left), packages=self.config.packages
            )
            right = done.why is None and _lines(done.output) == _lines(str(test["output"]))
            passed += right
            why = why or (None if right else done.why or "a wrong output")
        return self._score(passed, len(tests), why)

    def _bounds(self, seconds: float | None = None) -> _sandbox.Bounds:
        return _sandbox.Bounds(
            seconds=self.config.timeout_s if seconds is None else seconds, memory_mb=self.config.memory_mb
        )

    def _score(self, passed: int, total: int, why: str | None) -> Score:
        value = passed / total if self.config.partial else float(passed == total)
        reason = f"{passed} of {total} tests passed" + (f"; first failure: {why}" if why else "")
        metrics = {"tests": float(total), "isolated": float(_sandbox.best().strong)}
        return Score(value, reason=reason[:300], metrics=metrics)


def _tests(reference: Any) -> list[Any]:
    """The tests of a reference: one text, a list, or a list as JSON."""
    if isinstance(reference, str):
        if reference.lstrip().startswith("["):
            try:
                reference = json.loads(reference)
            except (ValueError, RecursionError):
                return [reference]
        elif not reference.strip():
            return []
    return (
        list(reference) if isinstance(reference, Sequence) and not isinstance(reference, str) else [reference]
    )


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
