"""Similarity by embeddings: over a real HTTP server that is a fake model, and with a tiny encoder."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rft import Limits, Message, Rollout, Task
from rft.errors import UserError
from rft.evaluators import EmbeddingSimilarity
from rft.scoring.runner import ScoringRunner


class FakeEmbeddings:
    """A fake: a real server that speaks the OpenAI embeddings API; letters a to d are its dimensions."""

    def __init__(self):
        self.bodies, self.keys, self.answer = [], [], self.embeddings
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.bodies.append(body)
                outer.keys.append(self.headers.get("authorization"))
                sent = json.dumps(outer.answer(body)).encode()
                self.send_response(200 if self.path == "/v1/embeddings" else 404)
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def embeddings(self, body):
        data = [
            {"index": index, "embedding": [float(text.count(letter)) for letter in "abcd"]}
            for index, text in enumerate(body["input"])
        ]
        return {"data": data[::-1], "usage": {"prompt_tokens": 10}}


@pytest.fixture
def fake():
    fake = FakeEmbeddings()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def scored(judge, *pairs):
    rollouts = []
    for index, (answer, reference) in enumerate(pairs):
        task = Task("t", (Message("user", "?"),), reference=reference)
        rollouts.append(Rollout(f"t/{index}", "t", task, (*task.messages, Message("assistant", answer))))

    async def run():
        async with ScoringRunner(judge) as runner:
            return await asyncio.gather(*map(runner.score, rollouts))

    return asyncio.run(run())


def test_the_cosine_with_the_best_reference_in_one_request_for_all(fake):
    judge = EmbeddingSimilarity(url=fake.url, model="m", usd_per_million_tokens=5.0)
    got = scored(judge, ("aab", "aab"), ("ab", "a"), ("a", "b"), ("a", ["b", "aa"]), ("", "a"), ("a", " "))
    assert [score.value for score in got[:5]] == pytest.approx([1.0, 2**-0.5, 0.0, 1.0, 0.0])
    assert got[5].status == "skipped"
    assert len(fake.bodies) == 1
    assert fake.bodies[0]["model"] == "m"
    assert len(fake.bodies[0]["input"]) == len(set(fake.bodies[0]["input"]))
    assert sum(score.cost.usd for score in got) == pytest.approx(10 * 5.0 / 1e6)


def test_what_lies_below_the_floor_is_nothing(fake):
    got = scored(EmbeddingSimilarity(url=fake.url, model="m", floor=0.8), ("ab", "a"), ("aaab", "a"))
    assert got[0].value == 0.0
    assert got[1].value == pytest.approx((3 / 10**0.5 - 0.8) / 0.2)


@pytest.mark.parametrize(
    "answer",
    [
        {"data": []},
        {"data": [{"index": 0, "embedding": [1.0, 2.0]}]},
        {"data": "no"},
        [],
        {"data": [{"index": i, "embedding": [1.0] * (i + 1)} for i in range(2)]},
        {"data": [{"index": i, "embedding": [None]} for i in range(2)]},
        {"data": [{"index": i, "embedding": []} for i in range(2)]},
    ],
)
def test_an_answer_that_holds_no_vectors_is_a_failure_and_no_number(fake, answer):
    fake.answer = lambda body: answer
    judge = EmbeddingSimilarity(url=fake.url, model="m")
    judge.limits = Limits(attempts=1)
    (got,) = scored(judge, ("a", "b"))
    assert (got.value, got.failure.kind) == (None, "bad_response")


def test_the_key_is_sent_and_told_nowhere(fake, monkeypatch):
    monkeypatch.setenv("EMBED_KEY", "open-sesame")
    judge = EmbeddingSimilarity(url=fake.url, model="m", api_key="env:EMBED_KEY")
    (got,) = scored(judge, ("a", "a"))
    assert got.value == pytest.approx(1.0)
    assert fake.keys == ["Bearer open-sesame"]
    assert "sesame" not in repr((judge.config, judge.config.model_dump(mode="json"), got))


def test_a_folder_with_an_encoder_needs_no_service(tiny_model_dir):
    got = scored(EmbeddingSimilarity(folder=str(tiny_model_dir)), ("same", "same"), ("a b c", "other words"))
    assert got[0].value == pytest.approx(1.0, abs=1e-5)
    assert 0 <= got[1].value < 0.9999


def test_a_folder_without_one_is_told_at_once(tmp_path):
    with pytest.raises(UserError, match="no model to embed with"):
        scored(EmbeddingSimilarity(folder=str(tmp_path)), ("a", "a"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "http://x/v1"},
        {"folder": "x", "url": "http://x/v1", "model": "m"},
        {"folder": "x", "model": "m"},
    ],
)
def test_it_has_to_be_clear_where_embeddings_come_from(options):
    with pytest.raises(ValueError, match="validation error"):
        EmbeddingSimilarity(**options)
