"""An evaluator behind a real server on loopback, asked by HTTPEvaluator and by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from rft import (
    BatchEvaluator,
    Evaluator,
    EvaluatorError,
    GroupEvaluator,
    HTTPEvaluator,
    Limits,
    Message,
    Rollout,
    Score,
    Task,
    evaluator,
    score,
)
from rft.http import serve as page
from rft.http import wire
from rft.scoring.runner import ScoringRunner
from rft.serve.server import Server, bind

TASK = Task("t", (Message("user", "2+2?"),), "4")


@contextmanager
def served(judge, key=None):
    runner = ScoringRunner(judge)

    async def app():
        await runner.setup()
        return page.build(runner, key)

    server = Server(app, bind("127.0.0.1", 0))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def asked(url, completion="4", **config):
    return score(
        HTTPEvaluator(url=f"{url}/evaluate", **config), prompt="2+2?", completion=completion, reference="4"
    )


def message_for(*texts, group="0-t"):
    rollouts = [
        Rollout(f"{group}/{i}", group, TASK, (*TASK.messages, Message("assistant", text)))
        for i, text in enumerate(texts)
    ]
    return [wire.request_of(rollout)["rollout"] for rollout in rollouts]


@evaluator
def exact(text, reference):
    return text == reference


class Moody(Evaluator):
    limits = Limits(attempts=1)

    async def evaluate(self, rollout):
        if rollout.text == "skip":
            return Score.skip("no gold")
        if rollout.text == "away":
            raise EvaluatorError("server", "database away", retryable=True, retry_after_s=2)
        if rollout.text == "bug":
            raise KeyError("fee")
        return Score(0.5, reason="half", metrics={"words": 1.0})


def test_a_served_evaluator_scores_as_it_does_at_home():
    with served(exact) as url:
        assert [asked(url, text).value for text in ("4", "5")] == [1.0, 0.0]


@pytest.mark.parametrize("text", ["skip", "away", "bug", "fine"])
def test_status_reason_and_failure_come_through(text):
    limits = {"attempts": 1}
    with served(Moody()) as url:
        there = asked(url, text, limits=limits)
    here = score(Moody(), prompt="2+2?", completion=text, reference="4")
    assert (there.value, there.status, there.reason) == (here.value, here.status, here.reason)
    assert there.metrics == here.metrics and there.failure == here.failure


def test_a_batch_is_answered_in_its_order():
    class Lengths(BatchEvaluator):
        range = (0, 10)

        async def evaluate_batch(self, rollouts):
            return [len(rollout.text) for rollout in rollouts]

    with served(Lengths()) as url:
        message = {"version": wire.VERSION, "rollouts": message_for("a", "abc", "ab")}
        answer = httpx.post(f"{url}/evaluate/batch", json=message).json()
    assert [result["score"] for result in answer["results"]] == [1.0, 3.0, 2.0]


def test_a_group_is_judged_as_one():
    class Longest(GroupEvaluator):
        async def evaluate_group(self, rollouts):
            longest = max(len(rollout.text) for rollout in rollouts)
            return [len(rollout.text) == longest for rollout in rollouts]

    with served(Longest()) as url:
        mixed = [*message_for("a", "abc"), *message_for("a", "", group="1-t")]
        message = {"version": wire.VERSION, "rollouts": [mixed[i] for i in (0, 2, 1, 3)]}
        answer = httpx.post(f"{url}/evaluate/batch", json=message).json()
    assert [result["score"] for result in answer["results"]] == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"[]", "the request"),
        (b'{"version": "rft.evaluate/2"}', "version"),
        (b'{"version": "rft.evaluate/1"}', "rollout: Field required"),
    ],
)
def test_what_is_no_request_is_refused_in_a_line(body, said):
    with served(exact) as url:
        answer = httpx.post(f"{url}/evaluate", content=body)
    assert answer.status_code == 400 and said in answer.json()["error"]


def test_a_request_without_end_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(page, "_MAX_REQUEST_BYTES", 100)
    with served(exact) as url:
        assert httpx.post(f"{url}/evaluate", content=b" " * 1000).status_code == 413


def test_a_key_is_asked_for_where_one_is_set(monkeypatch):
    monkeypatch.setenv("RFT_TEST_PASS", "opens-it")
    with served(exact, key="opens-it") as url:
        assert asked(url).failure.kind == "bug"
        assert asked(url, headers={"Authorization": "Bearer env:RFT_TEST_PASS"}).value == 1.0
        health = httpx.get(f"{url}/health").json()
    assert health["evaluator"] == "exact" and health["fingerprint"] == exact.fingerprint()


@pytest.fixture
def command(tmp_path):
    """`rft evaluator serve` in a process of its own; ended when it has not ended itself."""
    (tmp_path / "graders.py").write_text(
        "from pydantic import BaseModel\n"
        "from rft import Evaluator\n"
        "class Near(Evaluator):\n"
        "    class Config(BaseModel):\n"
        "        within: float = 1\n"
        "    async def evaluate(self, rollout):\n"
        "        off = abs(float(rollout.text) - float(rollout.task.reference))\n"
        "        return off <= self.config.within\n"
        "    async def close(self):\n"
        "        print('closed', flush=True)\n"
    )
    started = []

    def start(*words):
        rft = str(Path(sys.executable).with_name("rft"))
        process = subprocess.Popen(
            [rft, "evaluator", "serve", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RFT_TEST_PASS": "opens-it"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_a_file_until_it_is_told_to_stop(command, stop):
    process = command("graders.py:Near", "within=2", "--port", "0")
    told = process.stderr.readline()
    assert told.startswith("serving Near (") and "http://127.0.0.1:" in told
    url = told.split(" at ")[1].split("/evaluate")[0]
    assert [asked(url, text).value for text in ("5.5", "7")] == [1.0, 0.0]
    process.send_signal(stop)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (0, "closed\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["graders.py:Far"], "has no 'Far'"),
        (["graders.py:Near", "within=far"], "evaluator.with.within: must be a number"),
        (["exact", "--api-key", "opens-it"], "a secret is named, not written out"),
        (["exact", "--api-key", "env:RFT_TEST_UNSET"], "variable RFT_TEST_UNSET is not set"),
        (["http", "url=http://x", "headers.X-Key=env:RFT_TEST_UNSET"], "variable RFT_TEST_UNSET is not set"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, words, said):
    process = command(*words, "--port", "0")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and said in errors and "Traceback" not in errors


def test_a_warning_where_anyone_could_ask(command):
    process = command("exact", "--host", "0.0.0.0", "--port", "0")
    assert process.stderr.readline().startswith("warning: 0.0.0.0 is reachable from other machines")
    process = command("exact", "--host", "0.0.0.0", "--port", "0", "--api-key", "env:RFT_TEST_PASS")
    assert process.stderr.readline().startswith("serving exact")
