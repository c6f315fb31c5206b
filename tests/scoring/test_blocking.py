"""`rft.score`: blocking anywhere, the same path as training, quick to import."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from rft import (
    BatchEvaluator,
    Evaluator,
    GroupEvaluator,
    PairwiseEvaluator,
    background,
    evaluator,
    score,
)
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


class Longest(GroupEvaluator):
    async def evaluate_group(self, rollouts):
        longest = max(len(r.text) for r in rollouts)
        return [len(r.text) / longest for r in rollouts]


class Half(BatchEvaluator):
    max_wait_s = 0.0

    def evaluate_batch(self, rollouts):
        return [{"score": 0.5, "together": len(rollouts)} for _ in rollouts]


class Longer(PairwiseEvaluator):
    def compare(self, first, second):
        return 0.5 + 0.5 * ((len(first.text) > len(second.text)) - (len(first.text) < len(second.text)))


def test_several_completions_are_one_group():
    assert [s.value for s in score(Longest(), prompt="?", completions=["a", "aaaa"])] == [0.25, 1.0]
    assert [s.value for s in score(Longer(), prompt="?", completions=["a", "aaaa", "aa"])] == [0.0, 1.0, 0.5]
    assert [s.value for s in score(exact, prompt="?", completions=["4", "5"], reference="4")] == [1.0, 0.0]


def test_a_batch_evaluator_takes_one_or_many():
    assert score(Half(), prompt="?", completion="a").metrics["together"] == 1
    assert [s.metrics["together"] for s in score(Half(), prompt="?", completions=["a", "b"])] == [2, 2]


def test_a_group_is_scored_inside_a_running_loop_too():
    async def cell():
        return score(Longest(), prompt="?", completions=["a", "aaaa"])

    assert [s.value for s in asyncio.run(cell())] == [0.25, 1.0]


def test_one_answer_cannot_be_compared():
    with pytest.raises(UserError, match=r"Longest compares answers: pass completions="):
        score(Longest(), prompt="?", completion="a")


@pytest.mark.parametrize("given", [{}, {"completion": "a", "completions": ["a"]}])
def test_it_takes_one_completion_or_several_and_not_both(given):
    with pytest.raises(UserError, match="either completion"):
        score(exact, prompt="?", **given)
