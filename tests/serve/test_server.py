from __future__ import annotations

import asyncio
import socket
import threading

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from rft.errors import ServeError
from rft.recipe.schema import ServeSpec
from rft.serve.server import Server, bind, listen


def serving(endpoint) -> Server:
    async def build():
        return Starlette(routes=[Route("/", endpoint)])

    return Server(build, bind("127.0.0.1", 0))


async def ok(_):
    return PlainTextResponse("ok")


def test_it_answers_between_start_and_stop_and_frees_the_port():
    server = serving(ok)
    server.start()
    assert httpx.get(server.url).text == "ok"
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, timeout=2)
    bind("127.0.0.1", int(server.url.rpartition(":")[2])).close()


def test_an_occupied_port_is_a_user_error_that_names_the_port():
    taken = bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with pytest.raises(ServeError, match=f"cannot serve on 127.0.0.1:{port}: .*in use.*another port"):
        bind("127.0.0.1", port)
    taken.close()


def test_a_host_that_is_not_ours_is_a_user_error():
    with pytest.raises(ServeError, match="cannot serve on 203.0.113.7:0"):
        bind("203.0.113.7", 0)


def test_clients_that_come_before_the_server_is_up_wait_and_are_answered():
    server = serving(ok)
    answers: list[str] = []
    early = threading.Thread(target=lambda: answers.append(httpx.get(server.url, timeout=20).text))
    early.start()
    server.start()
    early.join()
    server.stop()
    assert answers == ["ok"]


def test_stop_lets_a_request_in_flight_finish():
    arrived, finish = threading.Event(), threading.Event()

    async def slow(_):
        arrived.set()
        await asyncio.to_thread(finish.wait)
        return PlainTextResponse("late")

    server = serving(slow)
    server.start()
    answers: list[str] = []
    client = threading.Thread(target=lambda: answers.append(httpx.get(server.url, timeout=20).text))
    client.start()
    arrived.wait()
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    finish.set()
    stopping.join()
    client.join()
    assert answers == ["late"]


def test_what_building_the_app_raises_comes_out_of_start():
    async def build():
        raise ServeError("no such parser")

    server = Server(build, bind("127.0.0.1", 0))
    with pytest.raises(ServeError, match="no such parser"):
        server.start()


def test_ipv6_addresses_are_bracketed():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    sock = bind("::1", 0)
    assert Server(None, sock).url == f"http://[::1]:{sock.getsockname()[1]}"
    sock.close()


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [
        ("127.0.0.1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", "K", False),
    ],
)
def test_an_open_port_without_a_key_is_warned_about(monkeypatch, host, key, warned):
    monkeypatch.setenv("K", "secret")
    notes: list[str] = []
    listen(ServeSpec(host=host, port=0, api_key_env=key), notes.append).close()
    assert [("no key" in note) for note in notes] == [True] * warned


def test_a_missing_key_is_told_before_the_port_is_taken(monkeypatch):
    monkeypatch.delenv("K", raising=False)
    with pytest.raises(ServeError, match="names K"):
        listen(ServeSpec(port=0, api_key_env="K"), print)
