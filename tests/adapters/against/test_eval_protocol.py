"""Runs in .side-env, with eval-protocol 0.3.33."""

from __future__ import annotations

import asyncio

import pytest
import quality  # beside this file; by its module, as pytest would run the functions themselves
from eval_protocol.models import EvaluateResult

from rft import Message, Rollout, Task, score
from rft.adapters.eval_protocol import EvalProtocol, EvalProtocolGroup
from rft.errors import ResolveError
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Use
from rft.scoring.runner import ScoringRunner


def judged(function, completion="4 apples"):
    return score(
        EvalProtocol(function=function), prompt="2+2?", completion=completion, reference="4", unit="apples"
    )


def test_the_result_in_the_row_is_the_score_with_reason_and_valid_metrics():
    got = judged(quality.right)
    assert (got.value, got.reason, got.metrics) == (1.0, "said 4 apples", {"length": 0.8})
    assert judged(quality.right, "5").value == 0.0
    assert judged(quality.later).value == 0.5


def test_no_result_or_one_that_is_not_valid_is_skipped_and_an_error_has_failed():
    assert judged(quality.leaving(None)).status == "skipped"
    invalid = judged(
        quality.leaving(EvaluateResult(score=0.0, is_score_valid=False, reason="judge was cut off"))
    )
    assert (invalid.value, invalid.status, invalid.reason) == (None, "skipped", "judge was cut off")
    failed = judged(quality.leaving(EvaluateResult(score=0.0, error="no answer from the judge")))
    assert (failed.value, failed.failure.kind) == (None, "bad_response")
    assert judged(quality.leaving(EvaluateResult(score=float("nan")))).failure.kind == "bad_response"


def test_a_groupwise_function_sees_one_prompts_completions():
    judge = resolve_evaluator(Use(use="eval_protocol", **{"with": {"function": "quality:ranked"}}))
    assert isinstance(judge, EvalProtocolGroup)
    task = Task("t", (Message("user", "2+2?"),), "4", {"unit": "apples"})
    rollouts = [
        Rollout(f"t/{i}", "t", task, (*task.messages, Message("assistant", said)))
        for i, said in enumerate(["4", "four"])
    ]

    async def run():
        async with ScoringRunner(judge) as runner:
            scores = [await runner.score(rollout) for rollout in rollouts]
            return await runner.settle(rollouts, scores)

    assert [s.value for s in asyncio.run(run())] == [0.25, 1.0]


def test_a_function_over_a_whole_data_set_is_refused():
    with pytest.raises(ResolveError, match="mode 'all'"):
        EvalProtocol(function=quality.everything)


def test_the_fingerprint_is_that_of_the_function_under_the_decorator():
    prints = [EvalProtocol(function=f).fingerprint() for f in (quality.right, quality.later, quality.right)]
    assert prints[0] == prints[2] != prints[1]
