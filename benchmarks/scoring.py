"""The scoring runner: against an API with faults, beside a bare coroutine, and with identical rollouts.

    .venv/bin/python benchmarks/scoring.py

`faults`: 1,000 rollouts, an API on loopback that answers in 200 ms and fails for one request in five: 429
with Retry-After: 1, 500, resets, stalls of 10 s, garbage, truncated JSON, all equally likely. Concurrency 64,
one second for an attempt, a tenth for the first pause. Ideal is a client that wastes nothing: computed for
the same faults, with requests that cost no work, no slot empty while something could be asked, and retries at
once, except where Retry-After says when. Beside it stands the time of the attempts that were made, packed
into 64 slots: nobody could reach it without knowing beforehand whose request will fail.

`overhead`: an evaluator that answers at once, 10,000 rollouts together; microseconds an evaluation that the
runner takes beyond `asyncio.gather` of the bare coroutine. They take turns; the median of the rounds counts.
`memory`: 100,000 evaluations in lots of 10,000; main memory after the last lot less that after the fifth.

`duplicates`: 100 identical rollouts at once; requests that reach the API.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import heapq
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import ROOT, show, table
from _faulty_api import draw, score_of

from rft import Evaluator, HTTPEvaluator
from rft.evaluator import Limits
from rft.process import rss_gb
from rft.scoring.cache import ScoreCache
from rft.scoring.runner import ScoringRunner
from rft.types import Message, Rollout, Score, Task

CONCURRENCY = 64
DELAY_S = 0.2
TIMEOUT_S = 1.0
BACKOFF_S = 0.1
FAULT_RATE = 0.2
RETRY_AFTER_S = 1.0


class Instant(Evaluator):
    """Answers at once."""

    async def evaluate(self, rollout: Rollout) -> float:
        """Half."""
        return 0.5


def rollout(number: int, text: str) -> Rollout:
    """A finished rollout with one answer."""
    task = Task(f"task-{number}", (Message("user", "Say a number."),), reference=text)
    return Rollout(f"{task.id}/0", task.id, task, (*task.messages, Message("assistant", text)))


@contextmanager
def api(*options: str) -> Iterator[str]:
    """The faulty API in a process of its own; its address."""
    command = [sys.executable, str(ROOT / "benchmarks" / "_faulty_api.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def calls(url: str) -> dict[str, int]:
    """What the API gave, by kind."""
    with urllib.request.urlopen(f"{url}/calls") as response:
        found: dict[str, int] = json.load(response)
        return found


async def score_all(
    evaluator: Evaluator, rollouts: list[Rollout], **surroundings: Any
) -> tuple[list[Score], list[float]]:
    """Scores of all, asked for at once, and when each came, in seconds from then."""
    came = []

    async def one(runner: ScoringRunner, rollout: Rollout) -> Score:
        score = await runner.score(rollout)
        came.append(time.perf_counter() - began)
        return score

    async with ScoringRunner(evaluator, **surroundings) as runner:
        began = time.perf_counter()
        return await asyncio.gather(*(one(runner, rollout) for rollout in rollouts)), sorted(came)


def faults(count: int, seeds: int) -> dict[str, Any]:
    """See the top of this file."""
    rounds = [faults_once(count, seed) for seed in range(seeds)]
    return {
        "rounds": rounds,
        "wrong_numbers": sum(one["wrong_numbers"] for one in rounds),
        "scored_frac": min(one["scored_frac"] for one in rounds),
        "ratio": statistics.median(one["ratio"] for one in rounds),
        "ratio_to_packed": statistics.median(one["ratio_to_packed"] for one in rounds),
        "worst_ratio": max(one["ratio"] for one in rounds),
    }


def ideal_s(count: int, seed: int) -> float:
    """Seconds that a client needs which wastes nothing; see the top of this file."""
    dice = random.Random(seed)
    slots = [0.0] * CONCURRENCY  # when each is free
    again: list[tuple[float, int]] = []  # from when, attempts made
    fresh, last = count, 0.0
    while fresh or again:
        now = heapq.heappop(slots)
        if not fresh or (again and again[0][0] <= now):
            ready, attempts = heapq.heappop(again)
            now = max(now, ready)
        else:
            fresh, attempts = fresh - 1, 0
        what = draw(dice, FAULT_RATE)
        done = now + (TIMEOUT_S if what == "stall" else DELAY_S)
        if what != "answer" and attempts + 1 < Limits().attempts:
            heapq.heappush(again, (done + RETRY_AFTER_S * (what == "429"), attempts + 1))
        heapq.heappush(slots, done)
        last = max(last, done)
    return last


def faults_once(count: int, seed: int) -> dict[str, Any]:
    """One round of it."""
    rollouts = [rollout(number, str(number)) for number in range(count)]
    with api("--faults", str(FAULT_RATE), "--delay", str(DELAY_S), "--seed", str(seed)) as url:
        limits = Limits(concurrency=CONCURRENCY, timeout_s=TIMEOUT_S, backoff_s=BACKOFF_S)
        evaluator = HTTPEvaluator(url=url, body={"answer": "{text}"}, score="score", limits=limits)
        scores, came = asyncio.run(score_all(evaluator, rollouts))
        given = calls(url)
    stalls = given.get("stall", 0)
    packed = ((sum(given.values()) - stalls) * DELAY_S + stalls * TIMEOUT_S) / CONCURRENCY
    ideal = ideal_s(count, seed)
    scored = [(one, score) for one, score in zip(rollouts, scores, strict=True) if score.ok]
    wrong = [score for one, score in scored if score.value != score_of(one.text)]
    return {
        "requests": given,
        "wrong_numbers": len(wrong),
        "scored_frac": len(scored) / count,
        "half_s": came[count // 2],
        "nine_in_ten_s": came[count * 9 // 10],
        "all_but_one_in_a_hundred_s": came[count * 99 // 100],
        "seconds": came[-1],
        "ideal_s": ideal,
        "ratio": came[-1] / ideal,
        "packed_s": packed,
        "ratio_to_packed": came[-1] / packed,
        "failures": sorted({score.explain() for score in scores if not score.ok})[:5],
    }


def overhead(count: int, rounds: int) -> dict[str, Any]:
    """See the top of this file."""
    rollouts = [rollout(number, str(number)) for number in range(count)]
    evaluator = Instant()

    async def bare() -> float:
        began = time.perf_counter()
        await asyncio.gather(*map(evaluator.evaluate, rollouts))
        return (time.perf_counter() - began) / count

    async def run(runner: ScoringRunner) -> float:
        began = time.perf_counter()
        await asyncio.gather(*map(runner.score, rollouts))
        return (time.perf_counter() - began) / count

    async def turns() -> dict[str, list[float]]:
        seconds: dict[str, list[float]] = {"bare": [], "runner": [], "cached": []}
        with tempfile.TemporaryDirectory() as folder:
            cache = ScoreCache(Path(folder, "scores.sqlite"))
            async with ScoringRunner(evaluator) as plain, ScoringRunner(evaluator, cache=cache) as cached:
                for _ in range(rounds):
                    seconds["bare"].append(await bare())
                    seconds["runner"].append(await run(plain))
                    seconds["cached"].append(await run(cached))
            cache.close()
        return seconds

    seconds = asyncio.run(turns())
    medians = {name: 1e6 * statistics.median(values) for name, values in seconds.items()}
    return {
        "rollouts": count,
        "rounds": rounds,
        **{f"{name}_us": value for name, value in medians.items()},
        "overhead_us": medians["runner"] - medians["bare"],
        "overhead_with_cache_us": medians["cached"] - medians["bare"],
    }


def memory(lots: int, lot: int) -> dict[str, Any]:
    """See the top of this file."""

    async def run() -> list[float]:
        found = []
        async with ScoringRunner(Instant()) as runner:
            for number in range(lots):
                rollouts = [rollout(i, str(i)) for i in range(number * lot, (number + 1) * lot)]
                await asyncio.gather(*map(runner.score, rollouts))
                del rollouts
                gc.collect()
                found.append(1000 * rss_gb())
        return found

    found = asyncio.run(run())
    return {"evaluations": lots * lot, "rss_mb": found, "growth_mb": found[-1] - found[lots // 2 - 1]}


def duplicates(count: int) -> dict[str, Any]:
    """See the top of this file."""
    with tempfile.TemporaryDirectory() as folder, api() as url:
        evaluator = HTTPEvaluator(url=url, body={"answer": "{text}"}, score="score")
        same = [rollout(0, "7")] * count

        async def run() -> list[Score]:
            cache = ScoreCache(Path(folder, "scores.sqlite"))
            try:
                return (await score_all(evaluator, same, cache=cache))[0]
            finally:
                cache.close()

        scores = asyncio.run(run())
        return {
            "rollouts": count,
            "scored": sum(score.ok for score in scores),
            "calls": sum(calls(url).values()),
        }


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("faults", "overhead", "memory", "duplicates"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5, help="rounds with other faults")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    parts = {
        "faults": lambda: faults(1000, options.seeds),
        "overhead": lambda: overhead(10_000, options.rounds),
        "memory": lambda: memory(10, 10_000),
        "duplicates": lambda: duplicates(100),
    }
    results = {name: part() for name, part in parts.items() if options.only in (None, name)}
    rows = [
        {"part": name, "figure": figure, "value": value}
        for name, result in results.items()
        for figure, value in result.items()
        if isinstance(value, int | float)
    ]
    show(results, options.json, lambda: print(table(rows)))


if __name__ == "__main__":
    main()
