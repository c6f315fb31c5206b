"""What tests of the catalogue share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class FakeJudge:
    """A fake: a real HTTP server that speaks the OpenAI chat API and answers from a script, with no model.

    `script` gets the request's body and gives the answer's text; or (status, body) for another answer.
    """

    def __init__(self) -> None:
        self.script: Callable[[dict[str, Any]], Any] = lambda body: "{}"
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.bodies.append(body)
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                said = (
                    outer.script(body) if self.path == "/v1/chat/completions" else (404, {"error": self.path})
                )
                status, answer = said if isinstance(said, tuple) else (200, outer.answer(said))
                sent = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @staticmethod
    def answer(text: str | None, *, finish_reason: str = "stop") -> dict[str, Any]:
        """A chat completion of 100 tokens in, 20 out."""
        message = {"role": "assistant", "content": text}
        return {
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20},
        }

    def question(self, number: int = -1) -> str:
        """What the judge was asked, after its standing orders."""
        return self.bodies[number]["messages"][-1]["content"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def fake_judge() -> Iterator[FakeJudge]:
    judge = FakeJudge()
    yield judge
    judge.close()
