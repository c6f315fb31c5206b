"""`rft.score`: blocking anywhere, the same path as training, quick to import."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from rft import Evaluator, background, evaluator, score
from rft.errors import UserError
from rft.types import Message


@evaluator
def exact(text, reference):
    return text.strip() == reference


def test_it_scores_one_completion():
    assert score(exact, prompt="2+2?", completion=" 4 ", reference="4").value == 1.0


def test_it_takes_a_plain_function_and_the_fields_it_names():
    def judge(text, limit):
        return len(text) <= limit

    assert score(judge, prompt="?", completion="four", limit=3).value == 0.0


def test_it_takes_a_conversation():
    @evaluator
    def judge(messages):
        return {"score": 1.0, "messages": len(messages)}

    said = score(
        judge, prompt=[{"role": "system", "content": "Be brief."}, Message("user", "?")], completion="!"
    )
    assert said.metrics["messages"] == 3


def test_it_works_inside_a_running_event_loop():
    async def cell():
        return score(exact, prompt="2+2?", completion="4", reference="4")

    assert asyncio.run(cell()).value == 1.0


def test_on_its_own_loop_it_refuses_instead_of_waiting_for_itself():
    async def nested():
        return score(exact, prompt="2+2?", completion="4", reference="4")

    with pytest.raises(UserError, match="would block"):
        background.run(nested())


def test_a_missing_field_is_named():
    with pytest.raises(UserError, match="exact needs reference: pass reference="):
        score(exact, prompt="2+2?", completion="4")


def test_a_class_is_not_an_evaluator_yet():
    with pytest.raises(UserError, match="call a class"):
        score(Evaluator, prompt="2+2?", completion="4")


def test_a_failure_comes_back_as_a_score_without_a_number():
    got = score(lambda text: 1 / 0, prompt="2+2?", completion="4")
    assert got.failure.kind == "bug"
    with pytest.raises(ValueError, match="has no number"):
        float(got)


def test_importing_it_loads_no_heavy_library():
    code = "import sys; from rft import Evaluator, score; print(*sys.modules)"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert not loaded & {"torch", "transformers", "vllm", "numpy", "httpx", "tenacity", "aiolimiter", "yaml"}
