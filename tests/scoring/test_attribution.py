"""HTTP statuses, httpx and requests exceptions, and what a stored detail must not hold."""

from __future__ import annotations

import types

import httpx
import pytest

from rft.errors import EvaluatorError
from rft.scoring.attribution import attribute, redact

REQUEST = httpx.Request("GET", "https://api.example/score")


def status_error(code):
    response = httpx.Response(code, request=REQUEST)
    try:
        response.raise_for_status()
    except httpx.HTTPStatusError as error:
        return error
    raise AssertionError(code)


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        (400, "bug", False),
        (401, "bug", False),
        (404, "bug", False),
        (422, "bug", False),
        (408, "timeout", True),
        (429, "rate_limited", True),
        (500, "server", True),
        (503, "server", True),
    ],
)
def test_an_http_error_status_is_whose_fault_it_says(code, kind, retryable):
    failure = attribute(status_error(code)).failure
    assert (failure.kind, failure.retryable) == (kind, retryable)
    assert str(code) in failure.detail


@pytest.mark.parametrize(
    ("asks", "seconds"), [("7", 7.0), ("0.5", 0.5), ("soon", None), ("-1", None), ("inf", None), (None, None)]
)
def test_what_a_service_asks_for_is_kept(asks, seconds):
    error = status_error(429)
    if asks is not None:
        error.response.headers["Retry-After"] = asks
    assert attribute(error).failure.retry_after_s == seconds


def test_other_http_clients_are_read_by_their_response():
    class HTTPError(OSError):  # as in requests, where it is an OSError with a response
        response = types.SimpleNamespace(status_code=429)

    assert attribute(HTTPError("slow down")).failure.kind == "rate_limited"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError("refused"), "transport"),
        (httpx.ReadError("reset"), "transport"),
        (httpx.RemoteProtocolError("truncated"), "transport"),
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.ConnectTimeout("slow"), "timeout"),
        (httpx.UnsupportedProtocol("htp://"), "bug"),
        (httpx.InvalidURL("no host"), "bug"),
        (BrokenPipeError(), "transport"),
        (PermissionError("gold.txt"), "bug"),
    ],
)
def test_transport_errors_are_the_instruments_and_misuse_is_the_authors(error, kind):
    failure = attribute(error).failure
    assert failure.kind == kind
    assert failure.retryable == (kind != "bug")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("for url 'https://me:pw@api.example/score'", "for url 'https://***@api.example/score'"),
        ("GET https://api.example/s?api_key=abc&x=1 failed", "GET https://api.example/s?*** failed"),
        ("Authorization: Bearer abc.DEF-1", "Authorization: Bearer ***"),
        ("no secret here", "no secret here"),
    ],
)
def test_credentials_are_cut_from_details(text, clean):
    assert redact(text) == clean


def test_values_of_secret_variables_never_show(monkeypatch):
    monkeypatch.setenv("GRADER_TOKEN", "hunter2-hunter2")
    for error in (ValueError("sent hunter2-hunter2"), EvaluatorError("server", "echoed hunter2-hunter2")):
        detail = attribute(error).failure.detail
        assert "hunter2" not in detail
        assert "***" in detail


def test_a_secret_cut_in_half_by_the_length_limit_does_not_show(monkeypatch):
    monkeypatch.setenv("GRADER_TOKEN", "hunter2-hunter2")
    assert "hunter2" not in redact("x" * 490 + "hunter2-hunter2")
    assert len(redact("x" * 10_000)) == 500
