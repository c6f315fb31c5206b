"""Against a real server on loopback, with real faults."""

from __future__ import annotations

import gzip

import httpx
import pytest

from rft.errors import EvaluatorError, UserError
from rft.http.client import Client, read_json
from rft.secrets import Secret
from rft.testing import fake_api
from rft.testing.fake_api import FakeAPI, Reply


@pytest.fixture
def api():
    with FakeAPI() as api:
        yield api


async def ask(api, *, method="POST", accept=(), **options):
    client = Client(api.url, **options)
    try:
        return await client.send(httpx.Request(method, f"{api.url}/score", json={"a": 1}), accept=accept)
    finally:
        await client.close()


async def failure(api, **options) -> EvaluatorError:
    with pytest.raises(EvaluatorError) as raised:
        await ask(api, **options)
    return raised.value


@pytest.mark.parametrize(
    ("reply", "kind", "retryable"),
    [
        (Reply(None, 301, {"Location": "/new"}), "bug", False),
        (fake_api.redirect(), "bug", False),
        (Reply(None, 400), "bug", False),
        (Reply(None, 401), "bug", False),
        (Reply(None, 403), "bug", False),
        (Reply(None, 404), "bug", False),
        (Reply(None, 405), "bug", False),
        (Reply(None, 408), "timeout", True),
        (Reply(None, 409), "bug", False),
        (Reply(None, 422), "bug", False),
        (fake_api.rate_limited(), "rate_limited", True),
        (fake_api.server_error(), "server", True),
        (Reply(None, 502), "server", True),
        (Reply(None, 503), "server", True),
        (fake_api.cut(), "transport", True),
        (fake_api.reset(), "transport", True),
        (Reply(b"not gzip", 200, {"Content-Encoding": "gzip"}), "bad_response", True),
    ],
)
async def test_a_fault_is_whose_the_table_says(api, reply, kind, retryable):
    api.reply(reply)
    error = await failure(api)
    assert (error.kind, error.retryable) == (kind, retryable)
    assert "127.0.0.1" in error.detail
    assert len(api.requests) == 1, "retries are the runner's"


@pytest.mark.parametrize("reply", [fake_api.hang(), fake_api.slow(30)])
async def test_an_answer_that_does_not_come_in_time_is_a_timeout(api, reply):
    api.reply(reply)
    error = await failure(api, timeout_s=0.1)
    assert (error.kind, error.retryable) == ("timeout", True)
    assert error.detail == "no whole answer from 127.0.0.1 within 0.1 s"


async def test_nobody_listening_is_a_transport_failure(api):
    api.close()
    assert (await failure(api)).kind == "transport"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "HTTP 401 from 127.0.0.1: it refuses Authorization (env:RFT_TEST_PASS); check the value"),
        (404, "there is nothing at http://127.0.0.1"),
        (405, "does not take POST"),
        (302, "it redirects to http://127.0.0.1:1/elsewhere, which is not followed; set url"),
        (409, 'it does not take this request: {"error": "because"}'),
    ],
)
async def test_what_never_heals_says_what_to_do(api, monkeypatch, status, said):
    monkeypatch.setenv("RFT_TEST_PASS", "the-value-itself")
    api.reply(Reply({"error": "because"}, status, {"Location": "http://127.0.0.1:1/elsewhere?token=abc"}))
    error = await failure(api, headers={"Authorization": Secret("env:RFT_TEST_PASS")})
    assert said in error.detail
    assert "abc" not in error.detail and "the-value-itself" not in error.detail


async def test_without_credentials_a_refusal_says_that_none_were_sent(api):
    api.reply(Reply(None, 401))
    assert "it wants credentials and none were sent" in (await failure(api)).detail


async def test_a_redirect_is_not_followed(api):
    with FakeAPI() as elsewhere:
        api.reply(fake_api.redirect(elsewhere.url))
        await failure(api)
        assert elsewhere.requests == []


async def test_another_host_is_asked_only_when_allowed(api, monkeypatch):
    with pytest.raises(EvaluatorError, match=r"'127\.0\.0\.1' is not allowed, only to api\.example"):
        await Client("https://api.example/score").send(httpx.Request("POST", api.url))
    assert api.requests == []
    await Client("https://api.example", allow_hosts=["127.0.0.1"]).send(httpx.Request("POST", api.url))
    assert len(api.requests) == 1


async def test_the_service_gets_the_secret_and_the_reader_of_the_answer_does_not(api, monkeypatch):
    monkeypatch.setenv("RFT_TEST_PASS", "the-value-itself")
    response = await ask(api, headers={"Authorization": Secret("Bearer env:RFT_TEST_PASS")})
    assert api.requests[0].headers["authorization"] == "Bearer the-value-itself"
    assert "authorization" not in response.request.headers
    assert response.json() == {"score": 1.0}


async def test_a_secret_that_no_header_can_carry_is_refused_before_any_request(monkeypatch):
    monkeypatch.setenv("RFT_TEST_PASS", "two\nlines")
    with pytest.raises(UserError, match="env:RFT_TEST_PASS holds characters") as refused:
        Client("https://api.example", headers={"X-Api-Key": Secret("env:RFT_TEST_PASS")})
    assert "lines" not in str(refused.value)


async def test_an_answer_without_end_is_not_read_to_its_end(api):
    api.reply(Reply(b"x" * 5000))
    error = await failure(api, max_response_bytes=1000)
    assert (error.kind, error.retryable) == ("bad_response", False)
    assert "longer than 1,000 bytes" in error.detail
    api.reply(Reply(b"x" * 5000, 503))
    assert (await failure(api, max_response_bytes=1000)).kind == "server"


async def test_a_compressed_answer_counts_as_unpacked_and_reads_as_plain(api):
    zeros = Reply(gzip.compress(b"0" * 100_000), 200, {"Content-Encoding": "gzip"})
    api.reply(zeros)
    assert (await failure(api, max_response_bytes=1000)).kind == "bad_response"
    assert (await ask(api)).text == "0" * 100_000


async def test_an_accepted_status_comes_back_as_an_answer(api):
    api.reply(Reply({"why": "no sentence"}, 422))
    response = await ask(api, accept=[422])
    assert (response.status_code, response.json()) == (422, {"why": "no sentence"})


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"score": 0.', b"\xff\xfe\xfa", b"[" * 100_000])
async def test_what_is_not_json_is_a_bad_response_worth_another_try(api, body):
    api.reply(Reply(body))
    response = await ask(api)
    with pytest.raises(EvaluatorError, match="is not JSON") as raised:
        read_json(response)
    assert (raised.value.kind, raised.value.retryable) == ("bad_response", True)


async def test_retry_after_reaches_whoever_retries(api):
    api.reply(fake_api.rate_limited(7), Reply(None, 503, {"Retry-After": "2"}), fake_api.rate_limited(None))
    assert [(await failure(api)).retry_after_s for _ in range(3)] == [7.0, 2.0, None]
