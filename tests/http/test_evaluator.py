"""HTTPEvaluator as its users meet it: through `rft.score` and the runner, against a real server."""

from __future__ import annotations

import asyncio
import pickle

import httpx
import pytest
from pydantic import ValidationError

import rft
from rft import HTTPEvaluator, Limits, Message, Rollout, Score, Task, score
from rft.errors import RecipeError, UserError
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Use
from rft.scoring.runner import ScoringRunner
from rft.testing import fake_api
from rft.testing.fake_api import FakeAPI, Reply

SOON = {"backoff_s": 0.0, "timeout_s": 0.5}


@pytest.fixture
def api():
    with FakeAPI() as api:
        yield api


def asked(evaluator, completion="4", **fields):
    return score(evaluator, prompt="2+2?", completion=completion, **fields)


def rollout(text="4", rollout_id="0-t/0", **fields):
    task = Task("t", (Message("user", "2+2?"),), fields.pop("reference", None), fields)
    return Rollout(rollout_id, "0-t", task, (*task.messages, Message("assistant", text)))


class Quality(HTTPEvaluator):
    def build_request(self, rollout):
        return {"answer": rollout.text}

    def parse_response(self, response, rollout):
        return Score(response.json()["quality"], reason="as told")


def test_two_methods_make_an_evaluator_of_an_api(api):
    api.reply({"quality": 0.25})
    got = asked(Quality(url=api.url))
    assert (got.value, got.reason, got.evaluator) == (0.25, "as told", "Quality")
    assert api.requests[0].json() == {"answer": "4"}


def test_a_whole_request_may_be_built(api):
    class Asks(Quality):
        def build_request(self, rollout):
            url = f"{self.config.url}/judge?lang=en"
            return httpx.Request("PUT", url, content=rollout.text, headers={"X-Mine": "1"})

    api.reply({"quality": 1})
    assert asked(Asks(url=api.url)).value == 1
    request = api.requests[0]
    assert (request.method, request.path, request.body) == ("PUT", "/judge?lang=en", b"4")
    assert request.headers["x-mine"] == "1"


def test_a_recipe_alone_is_enough_for_a_simple_api(api, monkeypatch):
    monkeypatch.setenv("RFT_TEST_PASS", "the-value-itself")
    api.reply({"result": {"scores": [0.5], "why": "half right"}})
    evaluator = resolve_evaluator(
        Use.model_validate(
            {
                "use": "http",
                "with": {
                    "url": f"{api.url}/score",
                    "headers": {"Authorization": "env:RFT_TEST_PASS", "X-Team": "shop"},
                    "body": {"answer": "{text}", "gold": "{reference}", "note": "order {order}"},
                    "score": "result.scores.0",
                    "reason": "result.why",
                },
            }
        )
    )
    assert evaluator.requires == {"reference", "order"}
    got = asked(evaluator, reference=[4, "four"], order=17)
    assert (got.value, got.reason) == (0.5, "half right")
    request = api.requests[0]
    assert request.json() == {"answer": "4", "gold": [4, "four"], "note": "order 17"}
    assert request.headers["authorization"] == "the-value-itself"
    assert request.headers["x-team"] == "shop"


def test_unless_told_otherwise_both_sides_speak_the_wire_language(api):
    api.reply({"status": "skipped", "reason": "the gold answer is unreadable"})
    got = asked(HTTPEvaluator(url=api.url), reference="4", level=2)
    assert (got.status, got.reason) == ("skipped", "the gold answer is unreadable")
    task = api.requests[0].json()["rollout"]["task"]
    assert (task["reference"], task["metadata"]) == ("4", {"level": 2})


@pytest.mark.parametrize("fault", fake_api.FAULTS)
def test_a_fault_is_never_a_number(api, fault):
    api.reply(fake_api.FAULTS[fault])
    for evaluator in (Quality, HTTPEvaluator):
        got = asked(evaluator(url=api.url, limits={**SOON, "attempts": 2, "break_after": None}))
        assert got.value is None and got.status == "failed"


def test_what_may_heal_is_tried_again_by_the_runner(api):
    healing = [fake_api.rate_limited(0), fake_api.reset(), fake_api.cut(), fake_api.hang()]
    api.reply(*healing, fake_api.truncated_json(), fake_api.server_error(), {"score": 1})
    got = asked(HTTPEvaluator(url=api.url, limits={**SOON, "attempts": 9}))
    assert (got.value, got.attempts) == (1.0, 7)


def test_what_an_authors_reading_finds_cut_or_garbled_is_asked_for_again(api):
    api.reply(fake_api.truncated_json(), fake_api.garbage(), {"quality": 1})
    got = asked(Quality(url=api.url, limits=SOON))
    assert (got.value, got.attempts) == (1.0, 3)


def test_a_wrong_token_is_not_tried_again_and_named(api, monkeypatch):
    monkeypatch.setenv("RFT_TEST_PASS", "the-value-itself")
    api.reply(Reply({"error": "bad token the-value-itself"}, 401))
    headers = {"Authorization": "Bearer env:RFT_TEST_PASS"}
    got = asked(HTTPEvaluator(url=api.url, headers=headers))
    assert got.failure.kind == "bug" and len(api.requests) == 1
    assert "refuses Authorization (Bearer env:RFT_TEST_PASS)" in got.failure.detail
    assert "the-value-itself" not in repr(got)


def test_a_status_can_be_the_models_fault(api):
    api.reply(Reply({"detail": "the SQL does not parse"}, 422))
    got = asked(HTTPEvaluator(url=api.url, model_fault_statuses=[422], range=(-1, 1)))
    assert got.value == -1.0 and "HTTP 422" in got.reason and "does not parse" in got.reason


@pytest.mark.parametrize("status", [401, 403, 405, 408, 429, 500, 200])
def test_not_every_status_can(status):
    with pytest.raises(ValidationError, match="cannot be the model's fault"):
        HTTPEvaluator(url="https://api.example", model_fault_statuses=[status])


@pytest.mark.parametrize(
    "answer",
    [{}, [], {"quality": None}, {"quality": "high"}, {"quality": {}}, {"quality": float("nan")}, 3, None],
)
def test_an_answer_of_another_shape_is_a_bad_response(api, answer):
    api.reply(Reply(answer))
    for evaluator in (Quality(url=api.url), HTTPEvaluator(url=api.url, score="quality")):
        got = asked(evaluator)
        assert got.failure.kind == "bad_response", got


def test_a_number_outside_the_range_is_a_bad_response_unless_the_range_is_told(api):
    api.reply({"stars": 4})
    assert asked(HTTPEvaluator(url=api.url, score="stars")).failure.kind == "bad_response"
    assert asked(HTTPEvaluator(url=api.url, score="stars", range=(1, 5))).value == 4.0


def test_an_error_in_the_authors_code_is_a_bug(api):
    class Broken(Quality):
        def parse_response(self, response, rollout):
            return response.jsn()

    got = asked(Broken(url=api.url))
    assert got.failure.kind == "bug" and "test_evaluator.py" in got.failure.detail


def test_retries_carry_one_idempotency_key_and_other_rollouts_another(api):
    api.reply(fake_api.server_error(), fake_api.cut(), {"score": 1})
    evaluator = HTTPEvaluator(url=api.url, limits=SOON)
    other = HTTPEvaluator(url=api.url, limits=SOON, headers={"X-Variant": "b"})

    async def both():
        async with ScoringRunner(evaluator) as runner, ScoringRunner(other) as second:
            for one in (rollout(), rollout("5"), rollout(rollout_id="0-t/1")):
                await runner.score(one)
            await second.score(rollout())

    asyncio.run(both())
    keys = [request.headers["idempotency-key"] for request in api.requests]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 4
    asyncio.run(both())
    assert {request.headers["idempotency-key"] for request in api.requests} == set(keys)


def test_what_must_not_be_asked_twice_is_asked_once(api):
    for fault in ("500", "reset", "hang", "truncated_json"):
        api.requests.clear()
        api.reply(fake_api.FAULTS[fault])
        got = asked(HTTPEvaluator(url=api.url, idempotent=False, limits=SOON))
        assert got.failure is not None and len(api.requests) == 1


def test_the_run_is_named_where_there_is_one(api, monkeypatch):
    monkeypatch.delenv("RFT_RUN", raising=False)
    asked(HTTPEvaluator(url=api.url))
    assert "x-rft-run" not in api.requests[0].headers
    monkeypatch.setenv("RFT_RUN", "20260314-092653-589kf")
    asked(HTTPEvaluator(url=api.url))
    assert api.requests[1].headers["x-rft-run"] == "20260314-092653-589kf"


def test_a_model_cannot_send_a_request_elsewhere(api):
    class Follows(Quality):
        def build_request(self, rollout):
            return httpx.Request("POST", rollout.text)

    got = asked(Follows(url=api.url), completion="http://169.254.169.254/latest/meta-data")
    assert got.failure.kind == "bug" and "not allowed" in got.failure.detail


def test_a_placeholder_in_a_models_answer_stays_as_it_is(api):
    evaluator = HTTPEvaluator(url=api.url, body={"a": "{text}", "b": "said: {text}"})
    asked(evaluator, completion="{reference} {text}", reference="secret gold")
    assert api.requests[0].json() == {"a": "{reference} {text}", "b": "said: {reference} {text}"}


def test_a_dry_run_shows_the_request_and_not_the_secret(api, monkeypatch):
    monkeypatch.delenv("RFT_TEST_PASS", raising=False)
    evaluator = Quality(url=api.url, headers={"Authorization": "Bearer env:RFT_TEST_PASS", "X-Team": "shop"})
    shown = evaluator.dry_run(rollout("4"))
    assert shown.startswith(f"POST {api.url}\n") and shown.endswith('\n\n{"answer":"4"}')
    assert "authorization: Bearer env:RFT_TEST_PASS" in shown and "x-team: shop" in shown
    assert api.requests == []


def test_a_missing_secret_stops_before_the_first_request(api, monkeypatch):
    monkeypatch.delenv("RFT_TEST_PASS", raising=False)
    with pytest.raises(UserError, match="variable RFT_TEST_PASS is not set"):
        asked(HTTPEvaluator(url=api.url, headers={"Authorization": "env:RFT_TEST_PASS"}))
    assert api.requests == []


@pytest.mark.parametrize(
    "config",
    [
        {"url": "https://me:hunter2@api.example/"},
        {"url": "https://api.example/?api_key=hunter2"},
        {"url": "https://api.example/", "headers": {"Authorization": "Bearer hunter2"}},
        {"url": "https://api.example/", "headers": {"X-Api-Key": "hunter2"}},
    ],
)
def test_a_credential_that_is_written_out_is_refused_and_not_repeated(config):
    with pytest.raises(UserError, match="credential") as refused:
        resolve_evaluator(Use.model_validate({"use": "http", "with": config}))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "url"),
        ({"url": "api.example/score"}, "must be a whole address"),
        ({"url": "ftp://api.example"}, "must be a whole address"),
        ({"url": "https://api.example", "limits": {"timeout_s": 0}}, "timeout_s must be more than 0"),
        ({"url": "https://api.example", "retries": 3}, "unknown key"),
    ],
)
def test_a_wrong_option_is_found_before_anything_runs(config, said):
    with pytest.raises(RecipeError, match=said):
        resolve_evaluator(Use.model_validate({"use": "http", "with": config}))


def test_the_fingerprint_is_of_what_is_asked_not_of_how_hard(monkeypatch):
    def made(**config):
        return HTTPEvaluator(url="https://api.example", **config).fingerprint()

    secret = {"Authorization": "env:RFT_TEST_PASS"}
    monkeypatch.setenv("RFT_TEST_PASS", "one-value")
    before = made(headers=secret, requires=["b", "a"])
    monkeypatch.setenv("RFT_TEST_PASS", "another-value")
    assert made(headers=secret, requires=["b", "a"]) == before
    assert made(headers=secret, requires=["b", "a"], limits={"concurrency": 2}) == before
    assert made(headers=secret, requires=["b", "a"], score="x") != before


def test_evaluators_of_one_host_share_its_limits():
    origins = {HTTPEvaluator(url=f"https://api.example:8443/{path}").origin for path in ("a", "b")}
    assert origins == {"api.example:8443"}


def test_limits_come_from_the_recipe_or_the_class():
    class Gentle(HTTPEvaluator):
        limits = Limits(concurrency=2)

    url = "https://api.example"
    assert Gentle(url=url).limits.concurrency == 2
    assert Gentle(url=url, limits={"concurrency": 3}).limits.concurrency == 3


def test_it_goes_to_another_process_without_its_connections(api):
    async def in_use():
        evaluator = HTTPEvaluator(url=api.url)
        async with ScoringRunner(evaluator) as runner:
            await runner.score(rollout())
            return pickle.loads(pickle.dumps(evaluator))

    assert asked(asyncio.run(in_use())).value == 1.0


def test_it_works_in_a_process_of_its_own_and_refuses_a_thread(api):
    evaluator = HTTPEvaluator(url=api.url, limits={"concurrency": 1})
    evaluator.execution = "process"
    assert asked(evaluator).value == 1.0
    evaluator.execution = "thread"
    with pytest.raises(UserError, match='set execution to "async" or "process"'):
        asked(evaluator)


def test_it_is_a_public_name_that_costs_nothing_until_named():
    assert rft.HTTPEvaluator is HTTPEvaluator
    with pytest.raises(AttributeError, match="no attribute 'HTTPEvaluater'"):
        rft.HTTPEvaluater  # noqa: B018  the access is what is tested
