"""The fake API: what it is told to do is what a real client sees."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

from rft.testing.fake_api import (
    FAULTS,
    FakeAPI,
    Reply,
    chat,
    cut,
    garbage,
    hang,
    rate_limited,
    redirect,
    reset,
    server_error,
    slow,
    truncated_json,
)


@pytest.fixture
def api():
    with FakeAPI() as api:
        yield api


def ask(api: FakeAPI, **options) -> httpx.Response:
    return httpx.post(f"{api.url}/score", json={"text": "hi"}, timeout=options.pop("timeout", 5), **options)


def test_it_answers_on_loopback_and_says_that_it_is_a_fake(api):
    assert api.url.startswith("http://127.0.0.1:")
    answer = ask(api)
    assert answer.json() == {"score": 1.0}
    assert answer.headers["X-RFT-Fake"] == "1"
    assert answer.headers["Server"] == "rft-fake-api"


def test_it_keeps_what_it_was_asked(api):
    ask(api, headers={"Idempotency-Key": "a/0"})
    (request,) = api.requests
    assert (request.method, request.path, request.json()) == ("POST", "/score", {"text": "hi"})
    assert request.headers["idempotency-key"] == "a/0"


def test_answers_come_in_order_and_the_last_one_stays(api):
    api.reply(server_error(503), rate_limited(2.5), {"score": 0.25})
    first, second, third, fourth = (ask(api) for _ in range(4))
    assert first.status_code == 503
    assert (second.status_code, second.headers["Retry-After"]) == (429, "2.5")
    assert third.json() == fourth.json() == {"score": 0.25}


def test_a_function_answers_by_what_is_asked(api):
    api.reply(lambda request: {"score": len(request.json()["text"]) / 2})
    assert ask(api).json() == {"score": 1.0}
    api.reply(lambda request: Reply({"no": request.path}, 422))
    assert ask(api).status_code == 422


def test_garbage_and_cut_json_arrive_whole_and_cannot_be_read(api):
    for reply in (garbage(), truncated_json()):
        api.reply(reply)
        answer = ask(api)
        assert answer.status_code == 200
        with pytest.raises(ValueError):
            answer.json()


def test_a_body_may_stop_in_the_middle(api):
    api.reply(cut())
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        ask(api)


def test_a_connection_may_be_reset(api):
    api.reply(reset())
    with pytest.raises(httpx.ReadError):
        ask(api)


def test_a_redirect_leads_elsewhere_and_an_error_status_is_one(api):
    api.reply(redirect("http://127.0.0.1:1/x"))
    answer = ask(api)
    assert (answer.status_code, answer.headers["Location"]) == (302, "http://127.0.0.1:1/x")
    api.reply(server_error())
    assert ask(api).status_code == 500
    api.reply(rate_limited(None))
    assert "Retry-After" not in ask(api).headers


def test_a_hanging_or_slow_answer_runs_into_the_clients_time_limit(api):
    for reply in (hang(), slow(60)):
        api.reply(reply)
        with pytest.raises(httpx.ReadTimeout):
            ask(api, timeout=0.2)


def test_closing_lets_go_of_a_hanging_answer():
    api = FakeAPI()
    api.reply(hang())
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            ask(api, timeout=60)
        except httpx.HTTPError as error:
            outcome.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not api.requests:
        pass
    api.close()
    waiting.join(timeout=30)
    assert isinstance(outcome[0], httpx.ReadError)


def test_one_connection_serves_many_requests_and_many_connections_are_served_at_once(api):
    with httpx.Client() as client:
        assert [client.post(api.url, json=n).status_code for n in range(3)] == [200] * 3
    barrier = threading.Barrier(8)
    api.reply(lambda request: {"together": barrier.wait(timeout=30) >= 0})
    threads = [threading.Thread(target=ask, args=(api,), kwargs={"timeout": 30}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert api.most_at_once == 8


def test_it_can_be_a_model_behind_an_openai_compatible_api(api):
    api.reply(chat(lambda messages: messages[-1]["content"].upper(), model="loud"))
    assert httpx.get(f"{api.url}/v1/models").json()["data"][0]["id"] == "loud"
    body = {"model": "loud", "messages": [{"role": "user", "content": "hello there"}]}
    answer = httpx.post(f"{api.url}/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == "HELLO THERE"
    assert answer["usage"]["completion_tokens"] == 2
    plain = httpx.post(f"{api.url}/v1/completions", json={"prompt": "go on"}).json()
    assert plain["choices"][0]["text"] == "GO ON"


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_delivers_a_score(api, fault):
    api.reply(FAULTS[fault])
    try:
        answer = ask(api, timeout=0.5)
        answer.raise_for_status()
        assert "score" not in answer.json()
    except (httpx.HTTPError, json.JSONDecodeError, UnicodeDecodeError) as error:
        assert str(error)
