"""Evaluators in worker processes: how late an endless loop in C is ended, and what a call costs.

    .venv/bin/python benchmarks/processes.py

`late_ms`: from the time limit (one second) of a call that never returns, a regular expression that backtracks
or a power of huge numbers, to its `timeout`, slot waited for included. `heal_s`: from there to the next
verdict, which needs a new worker. `call_us`: one instant evaluation of many, all workers busy.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from typing import Any

from _common import show, table

from rft import Evaluator
from rft.evaluator import Limits
from rft.scoring.runner import ScoringRunner
from rft.types import Message, Rollout, Score, Task

TIMEOUT_S = 1.0


class Endless(Evaluator):
    """Never comes back from some rollouts."""

    execution = "process"
    limits = Limits(timeout_s=TIMEOUT_S)

    def evaluate(self, rollout: Rollout) -> float:
        """1 for any other text."""
        if rollout.text == "backtrack":
            re.match(r"(a+)+$", "a" * 40 + "b")
        if rollout.text == "power":
            10**10**8
        return 1.0


def rollout(text: str, number: int = 0) -> Rollout:
    """A finished rollout with one answer."""
    task = Task(f"task-{number}", (Message("user", "Go on."),))
    return Rollout(f"{task.id}/0", task.id, task, (*task.messages, Message("assistant", text)))


async def timed(runner: ScoringRunner, text: str) -> tuple[Score, float]:
    """A verdict, and the seconds until it came."""
    began = time.perf_counter()
    score = await runner.score(rollout(text))
    return score, time.perf_counter() - began


async def measure(rounds: int, calls: int) -> dict[str, Any]:
    """See the top of this file."""
    late_ms, heal_s = [], []
    async with ScoringRunner(Endless()) as runner:
        for number in range(rounds):
            stuck, seconds = await timed(runner, ("backtrack", "power")[number % 2])
            assert stuck.failure is not None and stuck.failure.kind == "timeout", stuck
            late_ms.append(1e3 * (seconds - TIMEOUT_S))
            fine, seconds = await timed(runner, "fine")
            assert fine.ok, fine
            heal_s.append(seconds)
        began = time.perf_counter()
        await asyncio.gather(*(runner.score(rollout("fine", i)) for i in range(calls)))
        call_us = 1e6 * (time.perf_counter() - began) / calls
    return {
        "killed": rounds,
        "late_ms": statistics.median(late_ms),
        "latest_ms": max(late_ms),
        "heal_s": statistics.median(heal_s),
        "calls": calls,
        "call_us": call_us,
    }


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    found = asyncio.run(measure(options.rounds, options.calls))
    rows = [{"figure": name, "value": value} for name, value in found.items()]
    show(found, options.json, lambda: print(table(rows)))


if __name__ == "__main__":
    main()
