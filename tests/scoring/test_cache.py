"""One call for identical rollouts, in a run and between runs; no failure is kept, no run stopped by it."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from dataclasses import replace

import pytest

from rft.evaluator import Limits, evaluator
from rft.scoring.cache import ScoreCache, asked_anew, cache_key
from rft.scoring.compose import Weighted
from rft.scoring.runner import ScoringRunner
from rft.types import Cost, Message, Rollout, Score, Task, Turn

PROMPT = (Message("user", "2+2?"),)


def rollout(text="4", index=0, **changes):
    task = Task("t", PROMPT, "4", {"level": 1})
    said = Rollout(f"g/{index}", "g", task, (*PROMPT, Message("assistant", text)), seed=index)
    return replace(said, **changes)


def counting(verdict=1.0, **options):
    calls = []

    @evaluator(limits=Limits(attempts=2, backoff_s=0), **options)
    async def judge(text):
        calls.append(text)
        await asyncio.sleep(0.005)
        return verdict() if callable(verdict) else verdict

    return judge, calls


def scored(judge, path, *rollouts, notes=None, together=True, **options):
    async def run():
        cache = ScoreCache(path, (notes if notes is not None else []).append, **options)
        try:
            async with ScoringRunner(judge, cache=cache) as runner:
                if together:
                    return await asyncio.gather(*map(runner.score, rollouts))
                return [await runner.score(one) for one in rollouts]
        finally:
            cache.close()

    return asyncio.run(run())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "scores.sqlite"


def test_a_hundred_identical_rollouts_cause_one_call(path):
    judge, calls = counting(lambda: Score(0.5, cost=Cost(usd=1.0)))
    scores = scored(judge, path, *(rollout(index=i) for i in range(100)))
    assert len(calls) == 1
    assert {score.value for score in scores} == {0.5}
    assert sum(score.cost.usd for score in scores) == 1.0
    assert sorted(score.cached for score in scores) == [False] + [True] * 99


def test_a_verdict_is_kept_for_the_next_run_with_all_it_says(path):
    full = Score(
        0.5,
        reason="half",
        metrics={"words": 3.0},
        parts={"a": Score(1.0, reason="fine"), "b": Score(0.0)},
        turn_values=(0.5,),
    )
    judge, calls = counting(full)
    (first,) = scored(judge, path, rollout())
    (again,) = scored(judge, path, rollout(index=7))
    assert len(calls) == 1
    assert again == replace(first, latency_s=0.0, attempts=0, cached=True)


@pytest.mark.parametrize(
    "verdict",
    [
        Score.skip("gold unreadable"),
        Score.failed("server", "HTTP 503"),
        Score(1.0, parts={"tone": Score.failed("timeout", "slow")}),
    ],
)
def test_what_is_not_a_number_throughout_is_not_kept(path, verdict):
    judge, calls = counting(verdict)
    scored(judge, path, rollout())
    scored(judge, path, rollout())
    assert len(calls) == 2


def test_a_verdict_that_may_change_is_asked_for_each_time(path):
    judge, calls = counting(deterministic=False)
    scored(judge, path, rollout(), rollout())
    assert len(calls) == 2


def test_a_verdict_that_is_quicker_than_its_search_is_not_kept(path):
    judge, calls = counting()
    scored(judge, path, rollout(), worth_s=10.0)
    scored(judge, path, rollout(), worth_s=10.0)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"messages": (*PROMPT, Message("assistant", "5"))},
        {"stop": "length"},
        {"rewards": (1.0,)},
        {"env": {"board": "won"}},
        {"metrics": {"moves": 3.0}},
        {"turns": (Turn((1,), (2, 3), (0.0, 0.0), "stop"),)},
        {"task": Task("t", PROMPT, "5", {"level": 1})},
        {"task": Task("t", PROMPT, "4", {"level": 2})},
        {"task": Task("u", PROMPT, "4", {"level": 1})},
    ],
)
def test_whatever_an_evaluator_may_read_makes_another_key(change):
    assert cache_key("f", rollout()) != cache_key("f", rollout(**change))
    assert cache_key("f", rollout(**change)) == cache_key("f", rollout(index=3, **change))


def test_another_evaluator_has_other_keys_and_sample_and_weights_do_not_matter():
    assert cache_key("f", rollout()) != cache_key("g", rollout())
    assert cache_key("f", rollout()) == cache_key("f", rollout(index=9, weight_version=4, group_id="other"))


@pytest.mark.parametrize("env", [{(1, 2): 3}, {"board": object()}, {1: 1, "a": 2}])
def test_a_state_that_is_not_json_still_has_a_key(env):
    assert cache_key("f", rollout(env=env)) != cache_key("f", rollout())


def test_who_asks_anew_gets_a_verdict_of_its_own(path):
    judge, calls = counting()

    async def run():
        async with ScoringRunner(judge, cache=ScoreCache(path)) as runner:
            await runner.score(rollout())
            with asked_anew():
                return await runner.score(rollout())

    assert not asyncio.run(run()).cached
    assert len(calls) == 2


def test_parts_of_a_composite_use_the_cache_of_the_whole(path):
    steady, calls = counting()
    moody, _ = counting(deterministic=False)
    whole = Weighted(steady=steady, moody=moody)
    scored(whole, path, rollout())
    scored(whole, path, rollout())
    assert len(calls) == 1


def test_a_cancelled_call_is_made_anew_by_one_who_waited(path):
    judge, calls = counting()

    async def run():
        async with ScoringRunner(judge, cache=ScoreCache(path)) as runner:
            first = asyncio.create_task(runner.score(rollout()))
            others = [asyncio.create_task(runner.score(rollout(index=i))) for i in range(1, 5)]
            await asyncio.sleep(0.001)
            first.cancel()
            return await asyncio.gather(*others)

    assert [score.value for score in asyncio.run(run())] == [1.0] * 4
    assert len(calls) == 2


def test_the_oldest_go_when_there_are_too_many(path):
    judge, _ = counting()
    scored(judge, path, *(rollout(str(i)) for i in range(1100)), max_entries=200)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM verdicts").fetchone()[0] == 200 + 100


@pytest.mark.parametrize("damage", ["header", "middle", "content"])
def test_a_damaged_file_is_made_anew_with_a_note(path, damage):
    judge, calls = counting()
    scored(judge, path, *(rollout(str(i)) for i in range(200)))
    if damage == "content":
        with sqlite3.connect(path) as database:
            database.execute("UPDATE verdicts SET score = '{]'")
    else:
        raw = bytearray(path.read_bytes())
        start = 0 if damage == "header" else 4096
        raw[start : start + 16384] = b"\xff" * len(raw[start : start + 16384])
        path.write_bytes(raw)
    notes = []
    some = [rollout(str(i)) for i in range(0, 200, 8)]
    scored(judge, path, *some, notes=notes, together=False)
    assert len(notes) == 1
    assert "was damaged" in notes[0]
    before = len(calls)
    scored(judge, path, *some)
    assert len(calls) <= before + 1  # the one whose search found the damage may be missing


def test_a_file_that_cannot_be_used_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    judge, calls = counting()
    notes = []
    scores = scored(judge, tmp_path / "file" / "scores.sqlite", rollout(), rollout("5"), notes=notes)
    assert [score.value for score in scores] == [1.0, 1.0]
    assert len(calls) == 2
    assert len(notes) == 1
    assert "going on without" in notes[0]


def _fill(path, name):
    judge, _ = counting()
    notes = []
    scored(judge, path, *(rollout(f"{name} {i}") for i in range(300)), notes=notes)
    assert notes == []


def test_several_processes_share_a_file(path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_fill, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM verdicts").fetchone()[0] == 900
