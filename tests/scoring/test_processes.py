"""Evaluators in worker processes: killed in time, replaced, and told apart from their authors' mistakes."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rft import (
    BatchEvaluator,
    Evaluator,
    EvaluatorError,
    GroupEvaluator,
    Limits,
    PairwiseEvaluator,
    Score,
    evaluator,
)
from rft import score as score_of
from rft.errors import UserError
from rft.scoring.runner import ScoringRunner
from rft.types import Message, Rollout, Task

ROOT = Path(__file__).parents[2]
QUICK = Limits(timeout_s=0.3, concurrency=2)


class Works(Evaluator):
    """Does what the text says, in whatever process it is."""

    execution = "process"
    limits = QUICK

    def setup(self):
        self.calls = 0

    def evaluate(self, rollout):
        self.calls += 1
        match rollout.text:
            case "backtrack":
                return re.match(r"(a+)+$", "a" * 40 + "b") is None
            case "power":
                return len(str(10**10**8)) > 0
            case "child":
                subprocess.run(["sleep", "60"])
            case "die":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "leave":
                os._exit(3)
            case "exit":
                raise SystemExit(3)
            case "bug":
                return {}["fee"]
            case "print":
                print("to standard output")
                return 0.25
            case "down":
                raise EvaluatorError("server", "HTTP 503")
            case "late":
                raise EvaluatorError("timeout", "the service took too long", retryable=True)
            case "unpicklable":
                return Score(1.0, reason=threading.Lock())
            case "pid":
                return {"score": 1.0, "pid": os.getpid(), "calls": self.calls}
        return 0.5


@evaluator(execution="process", limits=QUICK)
def by_name(text, bonus=0.0):
    return {"score": bonus, "pid": os.getpid()}


def rollout(text, index=0):
    task = Task("t", (Message("user", "?"),))
    return Rollout(f"t/{index}", "t", task, (*task.messages, Message("assistant", text)))


def score(judge, *texts, **options):
    async def run():
        async with ScoringRunner(judge, **options) as runner:
            return await asyncio.gather(*(runner.score(rollout(t, i)) for i, t in enumerate(texts)))

    return asyncio.run(run())


def one_after_another(judge, *texts):
    async def run():
        async with ScoringRunner(judge) as runner:
            return [await runner.score(rollout(text)) for text in texts]

    return asyncio.run(run())


def test_it_runs_in_another_process_that_is_kept():
    first, second = one_after_another(Works(), "pid", "pid")
    assert first.metrics["pid"] == second.metrics["pid"] != os.getpid()
    assert (first.metrics["calls"], second.metrics["calls"]) == (1, 2)


@pytest.mark.parametrize("endless", ["backtrack", "power"])
def test_an_endless_loop_in_c_is_killed_in_time_and_the_pool_heals(endless):
    async def run():
        async with ScoringRunner(Works()) as runner:
            began = time.perf_counter()
            stuck = await runner.score(rollout(endless))
            return stuck, time.perf_counter() - began, await runner.score(rollout("fine"))

    stuck, took_s, after = asyncio.run(run())
    assert (stuck.failure.kind, stuck.failure.detail) == ("timeout", "no verdict within 0.3 s")
    assert (stuck.failure.retryable, stuck.attempts) == (False, 1)
    assert took_s < QUICK.timeout_s + 1.0  # what is promised; it is milliseconds
    assert after.value == 0.5


def test_a_stuck_worker_holds_up_nobody_else():
    stuck, *others = score(Works(), "backtrack", *["fine"] * 5)
    assert stuck.failure.kind == "timeout"
    assert [s.value for s in others] == [0.5] * 5


def test_what_the_evaluator_started_dies_with_it():
    def sleepers():
        found = 0
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended meanwhile
                found += line.read_bytes() == b"sleep\x0060.125\x00"
        return found

    @evaluator(execution="process", limits=QUICK)
    def judge(text):
        subprocess.run(["sleep", "60.125"])

    (got,) = score(judge, "")
    assert got.failure.kind == "timeout"
    until = time.monotonic() + 5
    while sleepers() and time.monotonic() < until:
        time.sleep(0.02)
    assert sleepers() == 0


def test_a_timeout_that_its_author_declares_retryable_is_retried():
    judge = Works()
    judge.limits = Limits(attempts=2, backoff_s=0)
    (got,) = score(judge, "late")
    assert (got.failure.kind, got.attempts) == ("timeout", 2)


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("die", "sandbox", "the worker process was ended by SIGSEGV"),
        ("leave", "sandbox", "the worker process ended by itself with exit code 3"),
        ("exit", "bug", "SystemExit: 3 (test_processes.py:"),
        ("bug", "bug", "KeyError: 'fee' (test_processes.py:"),
        ("down", "server", "HTTP 503"),
        ("unpicklable", "bug", "cannot pickle '_thread.lock' object"),
    ],
)
def test_whose_fault_it_was_crosses_the_border(text, kind, told):
    got, after = one_after_another(Works(), text, "fine")
    assert got.failure.kind == kind
    assert told in got.failure.detail
    assert after.value == 0.5


def test_printing_does_not_disturb_the_wire(capfd):
    (got,) = score(Works(), "print")
    assert got.value == 0.25
    assert "to standard output" in capfd.readouterr().err


def test_an_async_evaluator_keeps_one_loop_in_its_worker():
    class Judge(Evaluator):
        execution = "process"

        async def setup(self):
            self.loop = asyncio.get_running_loop()

        async def evaluate(self, rollout):
            await asyncio.sleep(0)
            return asyncio.get_running_loop() is self.loop

    assert [s.value for s in one_after_another(Judge(), "", "")] == [1.0, 1.0]


def test_setup_and_close_run_in_the_worker(tmp_path):
    class Judge(Evaluator):
        execution = "process"

        def setup(self):
            (tmp_path / "setup").write_text(str(os.getpid()))

        def evaluate(self, rollout):
            return {"score": 1.0, "pid": os.getpid()}

        def close(self):
            (tmp_path / "close").write_text(str(os.getpid()))

    (got,) = score(Judge(), "")
    pids = {(tmp_path / name).read_text() for name in ("setup", "close")}
    assert pids == {str(int(got.metrics["pid"]))}
    assert pids != {str(os.getpid())}


def test_a_setup_that_fails_there_is_told_here():
    class Judge(Evaluator):
        execution = "process"

        def setup(self):
            raise EvaluatorError("transport", "connection refused")

    class Lacking(Judge):
        def setup(self):
            raise UserError("needs the extra `math`")

    with pytest.raises(UserError, match=r"set up: failed \(transport: connection refused\)"):
        score(Judge(), "")
    with pytest.raises(UserError, match="^needs the extra `math`$"):
        score(Lacking(), "")


def test_a_close_that_fails_there_is_told_and_loses_nothing():
    class Judge(Evaluator):
        execution = "process"

        def evaluate(self, rollout):
            return 1.0

        def close(self):
            raise KeyError("session")

    events = []
    (got,) = score(Judge(), "", on_event=lambda name, fields: events.append((name, fields["why"])))
    assert got.value == 1.0
    assert [name for name, _ in events] == ["evaluator_close_failed"]
    assert "KeyError: 'session'" in events[0][1]


def test_a_worker_that_cannot_be_replaced_fails_what_needs_it(tmp_path):
    class Judge(Evaluator):
        execution = "process"
        limits = Limits(timeout_s=30, concurrency=2)  # nothing here runs out of time

        def setup(self):
            if (tmp_path / "gone").exists():
                raise EvaluatorError("sandbox", "no licence is left")

        def evaluate(self, rollout):
            (tmp_path / "gone").touch()
            os._exit(1)

    first, second = one_after_another(Judge(), "", "")
    assert first.failure.detail == "the worker process ended by itself with exit code 1"
    assert (second.failure.kind, second.failure.detail) == ("sandbox", "no licence is left")


@pytest.mark.parametrize("kind", [BatchEvaluator, GroupEvaluator, PairwiseEvaluator])
def test_calls_about_several_rollouts_run_there_too(kind):
    class Judge(kind):
        execution = "process"
        batch_size = 2

        def evaluate_batch(self, rollouts):
            return [{"score": len(r.text) / 4, "away": os.getpid() != here} for r in rollouts]

        evaluate_group = evaluate_batch

        def compare(self, first, second):
            return (len(first.text) > len(second.text)) * (os.getpid() != here)

    if kind is PairwiseEvaluator:
        del Judge.evaluate_group
    here = os.getpid()
    got = score_of(Judge(), prompt="?", completions=["four", ""])
    assert [s.value for s in got] == [1.0, 0.0]


def test_there_are_no_more_workers_than_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    judge = Works()
    judge.limits = Limits(concurrency=64)
    assert len({s.metrics["pid"] for s in score(judge, *["pid"] * 4)}) == 1


def test_what_cannot_be_sent_is_refused_before_anything_runs():
    judge = Works()
    judge.lock = threading.Lock()
    with pytest.raises(
        UserError, match=r"Works cannot be sent .* cannot pickle .*; make what .* in its `setup`"
    ):
        score(judge, "")


def test_a_decorated_function_travels_by_name_with_its_configuration():
    again = pickle.loads(pickle.dumps(by_name.configured(bonus=0.75)))
    assert (again.name, again.limits, again.evaluate(rollout(""))["score"]) == ("by_name", QUICK, 0.75)
    assert again.fingerprint() == by_name.configured(bonus=0.75).fingerprint()
    (got,) = score(again, "")
    assert got.value == 0.75
    assert got.metrics["pid"] != os.getpid()


def test_a_function_of_a_notebook_travels_by_value():
    scope = {"__name__": "__main__", "evaluator": evaluator}
    exec("@evaluator(execution='process')\ndef typed_in(text):\n    return len(text) / 8", scope)
    (got,) = score(scope["typed_in"], "four")
    assert got.value == 0.5


def test_a_class_of_a_notebook_travels_with_its_configuration():
    scope = {"__name__": "__main__", "Evaluator": Evaluator}
    exec(
        "import pydantic\n"
        "class Typed(Evaluator):\n"
        "    execution = 'process'\n"
        "    class Config(pydantic.BaseModel):\n"
        "        value: float = 0.0\n"
        "    def evaluate(self, rollout):\n"
        "        return self.config.value",
        scope,
    )
    (got,) = score(scope["Typed"](value=0.5), "")
    assert got.value == 0.5


def test_workers_end_with_their_parent_even_in_an_endless_loop():
    code = (
        "import asyncio, os, sys\n"
        "from rft.scoring.runner import ScoringRunner\n"
        "from tests.scoring.test_processes import Works, rollout\n"
        "async def run():\n"
        "    async with ScoringRunner(Works()) as runner:\n"
        "        print(int((await runner.score(rollout('pid'))).metrics['pid']), flush=True)\n"
        "        asyncio.get_running_loop().call_later(0.1, os._exit, 0)\n"
        "        await runner.score(rollout('backtrack'))\n"
        "asyncio.run(run())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    pid = int(done.stdout)
    until = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")
