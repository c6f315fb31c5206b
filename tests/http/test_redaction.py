"""One secret, pushed at every door through which it could leave. It must be behind none of them."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import pickle
import traceback
import urllib.parse

import pytest

from rft import HTTPEvaluator, Message, Rollout, Score, Task
from rft.errors import EvaluatorError
from rft.recipe.load import dump_recipe
from rft.recipe.schema import Recipe
from rft.runs.rollouts import read_rollouts, write_rollouts
from rft.scoring.compose import Weighted
from rft.scoring.runner import ScoringRunner
from rft.testing.fake_api import FakeAPI, Reply, cut
from rft.types import Group

VALUE = "s3cr3t/val+ue"
FORMS = [VALUE, urllib.parse.quote(VALUE, safe=""), base64.b64encode(VALUE.encode()).decode()]
TASK = Task("t", (Message("user", "2+2?"),))
ROLLOUT = Rollout("0-t/0", "0-t", TASK, (*TASK.messages, Message("assistant", "4")))
WITH = {"headers": {"Authorization": "Bearer env:RFT_TEST_PASS", "X-Key": "env:RFT_TEST_PASS"}}


def echo(request):
    """What careless services do: the headers they got, in every form, in the answer and its headers."""
    value = request.headers["x-key"]
    forms = [request.headers["authorization"], urllib.parse.quote(value, safe="")]
    said = " ".join([*forms, base64.b64encode(value.encode()).decode()])
    status = int(request.path.strip("/"))
    if status == 302:
        return Reply(None, 302, {"Location": f"https://elsewhere/{value}?token={value}"})
    if status == 299:
        return Reply(f"no JSON but {said}".encode())
    verdict = {
        "score": 0.5,
        "reason": said,
        "metrics": {value: 1.0},
        "parts": {value: {"score": 1, "reason": said}},
    }
    failed = {"status": "failed", "failure": {"kind": "server", "detail": said}}
    return Reply({200: verdict, 298: failed}.get(status, {"error": said}), status, {"X-Echo": said})


STATUSES = [200, 298, 299, 302, 400, 401, 403, 404, 405, 408, 422, 429, 500, 503]


def assert_clean(*texts):
    for text in texts:
        for form in FORMS:
            assert form not in text, text


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setenv("RFT_TEST_PASS", VALUE)
    with FakeAPI() as api:
        api.reply(echo)
        yield api


def evaluator(api, status, **config):
    quick = {"attempts": 2, "backoff_s": 0.0, "break_after": None}
    return HTTPEvaluator(url=f"{api.url}/{status}", limits=quick, **WITH, **config)


def scored(judge):
    events = []

    async def once() -> Score:
        async with ScoringRunner(judge, on_event=lambda *event: events.append(event)) as runner:
            return await runner.score(ROLLOUT)

    return asyncio.run(once()), events


@pytest.mark.parametrize("status", STATUSES)
def test_no_echo_reaches_scores_events_logs_or_stored_rollouts(api, status, caplog, capfd, tmp_path):
    caplog.set_level(logging.DEBUG)
    judge = evaluator(api, status)
    score, events = scored(judge)
    weighed, more = scored(Weighted(part=judge))
    assert VALUE in api.requests[0].headers["authorization"], "it was sent"
    write_rollouts(tmp_path / "rollouts.parquet", 1, [Group("0-t", TASK, [ROLLOUT] * 2, [score, weighed])])
    stored = repr(read_rollouts(tmp_path / "rollouts.parquet"))
    logged = [record.getMessage() for record in caplog.records]
    assert logged, "httpx speaks at this level"
    assert_clean(repr(score), repr(weighed), repr([events, more]), stored, *logged, *capfd.readouterr())


def test_no_echo_leaves_by_a_status_that_is_the_models_fault(api):
    score, _ = scored(evaluator(api, 422, model_fault_statuses=[422]))
    assert score.value == 0.0 and "***" in score.reason
    assert_clean(repr(score))


@pytest.mark.parametrize("status", [299, 302, 401, 500])
def test_no_traceback_shows_it(api, status):
    judge = evaluator(api, status)

    async def once():
        await judge.setup()
        try:
            await judge.evaluate(ROLLOUT)
        finally:
            await judge.close()

    with pytest.raises(EvaluatorError) as raised:
        asyncio.run(once())
    assert_clean("".join(traceback.format_exception(raised.value)), repr(raised.value))


def test_no_broken_connection_shows_it(api):
    api.reply(cut())
    assert_clean(repr(scored(evaluator(api, 200))))


def test_an_authors_mistake_does_not_show_it(api):
    class Careless(HTTPEvaluator):
        def parse_response(self, response, rollout):
            raise RuntimeError(f"{response.request.headers.raw} {response.headers} {response.text}")

    score, events = scored(Careless(url=f"{api.url}/200", **WITH))
    assert score.failure.kind == "bug"
    assert_clean(repr(score), repr(events))


def test_no_form_of_the_evaluator_holds_it(api):
    judge = evaluator(api, 200)

    async def in_use():
        async with ScoringRunner(judge) as runner:
            await runner.score(ROLLOUT)
            return pickle.dumps(judge).decode("latin-1")

    dumped = json.dumps(judge.config.model_dump(mode="json"))
    assert "env:RFT_TEST_PASS" in dumped
    assert_clean(asyncio.run(in_use()), dumped, repr(judge.config), repr(vars(judge)), judge.fingerprint())
    assert_clean(judge.dry_run(ROLLOUT))


def test_no_recipe_holds_it(api, tmp_path):
    use = {"use": "http", "with": {"url": api.url, **WITH}}
    recipe = Recipe.model_validate(
        {"name": "r", "model": "m", "data": {"train": "t.jsonl"}, "evaluator": use}
    )
    text = dump_recipe(recipe)
    assert "Bearer env:RFT_TEST_PASS" in text
    assert_clean(text)
