from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from rft.errors import ServeError
from rft.serve.access import RequireKey, read_key


@pytest.fixture
def client() -> TestClient:
    def ok(_):
        return PlainTextResponse("ok")

    paths = ("/health", "/metrics", "/v1/models", "/tokenize", "/invocations")
    return TestClient(RequireKey(Starlette(routes=[Route(path, ok) for path in paths]), "s3cret"))


@pytest.mark.parametrize("path", ["/v1/models", "/tokenize", "/invocations", "/metrics"])
@pytest.mark.parametrize("given", [None, "", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2"])
def test_without_the_key_everything_but_health_is_refused(client, path, given):
    answer = client.get(path, headers={} if given is None else {"Authorization": given})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "s3cret" not in answer.text


def test_the_key_opens(client):
    assert client.get("/v1/models", headers={"Authorization": "Bearer s3cret"}).text == "ok"


def test_health_needs_no_key(client):
    assert client.get("/health").text == "ok"


def test_a_key_that_is_not_ascii_is_refused_and_not_a_crash(client):
    assert client.get("/v1/models", headers={"Authorization": "Bearer sécret".encode()}).status_code == 401


def test_a_websocket_without_the_key_is_closed(client):
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/v1/realtime"):
        pass
    assert closed.value.code == 1008


def test_the_key_comes_from_the_named_variable(monkeypatch):
    monkeypatch.setenv("MY_KEY", "abc")
    assert read_key("MY_KEY") == "abc"
    assert read_key(None) is None


@pytest.mark.parametrize("value", [None, ""])
def test_a_named_variable_without_a_key_is_an_error_not_an_open_door(monkeypatch, value):
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ServeError, match="names MY_KEY, which is not set"):
        read_key("MY_KEY")
