"""A service that goes away and comes back, over real sockets: work waits, and nobody loses a score."""

from __future__ import annotations

import asyncio

from rft.evaluator import Limits, evaluator
from rft.http.evaluator import HTTPEvaluator
from rft.scoring.compose import Weighted
from rft.scoring.runner import ScoringRunner
from rft.testing import FakeAPI
from rft.testing.fake_api import reset, server_error
from rft.types import Message, Rollout, Task

LIMITS = Limits(concurrency=8, attempts=4, backoff_s=0.1, break_after=6, cool_s=0.1, patience_s=30)


def rollout(index):
    task = Task("t", (Message("user", "2+2?"),), "4")
    return Rollout(f"t/{index}", "t", task, (*task.messages, Message("assistant", str(index))))


def test_an_outage_of_an_api_costs_no_score_and_few_requests():
    events = []
    with FakeAPI() as api:
        api.reply(server_error(503))
        judge = HTTPEvaluator(url=f"{api.url}/score", limits=LIMITS)

        async def run():
            async with ScoringRunner(judge, on_event=lambda name, fields: events.append(name)) as runner:
                working = asyncio.gather(*(runner.score(rollout(i)) for i in range(60)))
                while "breaker_opened" not in events:
                    await asyncio.sleep(0.01)
                ready = asyncio.create_task(runner.ready())
                api.reply(reset())
                await asyncio.sleep(0.35)
                waited, asked = not ready.done(), len(api.requests)
                api.reply({"score": 0.5})
                scores = await working
                await ready
                return scores, waited, asked, runner.paused_s

        scores, waited, asked, paused_s = asyncio.run(run())
    assert {score.value for score in scores} == {0.5}
    assert waited
    assert asked < 6 + 8 + 8  # what opened it, what was under way, and a few probes
    assert paused_s > 0.3
    assert [name for name in events if name.startswith("breaker")] == ["breaker_opened", "breaker_closed"]


def test_a_composite_is_not_ready_while_a_part_is_away():
    with FakeAPI() as api:
        api.reply(server_error(503))
        away = HTTPEvaluator(url=f"{api.url}/score", limits=LIMITS)
        whole = Weighted(away=away, here=evaluator(lambda text: 1.0))

        async def run():
            async with ScoringRunner(whole) as runner:
                working = asyncio.gather(*(runner.score(rollout(i)) for i in range(12)))
                await asyncio.sleep(0.3)
                ready = asyncio.create_task(runner.ready())
                await asyncio.sleep(0.05)
                waited = not ready.done()
                api.reply({"score": 0.0})
                scores = await working
                await ready
                return scores, waited, runner.paused_s

        scores, waited, paused_s = asyncio.run(run())
    assert waited
    assert {score.value for score in scores} == {0.5}
    assert paused_s > 0


def test_two_evaluators_of_one_host_wait_together():
    with FakeAPI() as api:
        api.reply(server_error(503))
        first = HTTPEvaluator(url=f"{api.url}/tone", limits=LIMITS)
        second = HTTPEvaluator(url=f"{api.url}/facts", limits=LIMITS)

        async def run():
            async with ScoringRunner(first) as one, ScoringRunner(second) as other:
                working = asyncio.gather(*(one.score(rollout(i)) for i in range(12)))
                await asyncio.sleep(0.3)
                before = len(api.requests)
                waiting = asyncio.create_task(other.score(rollout(0)))
                await asyncio.sleep(0.02)
                paths = {request.path for request in api.requests[before:]}
                api.reply({"score": 1.0})
                return await working, await waiting, paths

        scores, score, paths = asyncio.run(run())
    assert len([request for request in api.requests if request.path == "/facts"]) >= 1
    assert len(paths) <= 1  # at most a probe
    assert {one.value for one in [*scores, score]} == {1.0}
