"""Runs in .side-env, with inspect_ai 0.3.285."""

from __future__ import annotations

import pytest
from inspect_ai.scorer import Score, Target, accuracy, includes, match, scorer
from inspect_ai.solver import TaskState

from rft import Message, score
from rft.adapters.inspect_ai import Inspect
from rft.errors import ResolveError
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Use


def giving(value, **fields):
    @scorer(metrics=[accuracy()])
    def fixed():
        async def score(state: TaskState, target: Target) -> Score | None:
            return None if value is None else Score(value=value, **fields)

        return score

    return fixed


def judged(thing, completion="Paris", reference="Paris", **options):
    judge = Inspect(function=thing, **options)
    return score(judge, prompt="Capital of France?", completion=completion, reference=reference, level=3)


def test_inspects_own_scorers_give_what_they_give_in_inspect():
    by_name = resolve_evaluator(
        Use(use="inspect", **{"with": {"function": "inspect_ai.scorer:includes", "arguments": {}}})
    )
    assert score(by_name, prompt="?", completion="It is paris.", reference="Paris").value == 1.0
    assert judged(includes, "It is paris.", arguments={"ignore_case": False}).value == 0.0
    assert judged(match(), "Paris").value == 1.0
    assert judged(includes(), "Bonn", reference=["Paris", "Bonn"]).value == 1.0


def test_a_scorer_sees_the_whole_rollout():
    seen = {}

    @scorer(metrics=[accuracy()])
    def looks():
        async def score(state: TaskState, target: Target) -> Score:
            seen.update(input=state.input_text, output=state.output.completion, level=state.metadata["level"])
            seen["roles"] = [message.role for message in state.messages]
            return Score(value="C", explanation="looked")

        return score

    prompt = [Message("system", "Be brief."), Message("user", "Capital of France?")]
    got = score(Inspect(function=looks), prompt=prompt, completion="Paris", reference="Paris", level=3)
    assert (got.value, got.reason) == (1.0, "looked")
    roles = ["system", "user", "assistant"]
    assert seen == {"input": "Capital of France?", "output": "Paris", "level": 3, "roles": roles}


@pytest.mark.parametrize(
    ("value", "number"),
    [("C", 1.0), ("P", 0.5), ("I", 0.0), ("N", 0.0), (True, 1.0), (0.25, 0.25), ("yes", 1.0), ("0.5", 0.5)],
)
def test_values_are_read_as_inspect_reads_them(value, number):
    from inspect_ai.scorer import value_to_float

    assert judged(giving(value)).value == number == value_to_float()(value)


def test_what_inspect_leaves_unscored_or_cannot_read_has_no_number():
    assert judged(giving(None)).status == "skipped"
    unscored = giving(float("nan"), explanation="the grade could not be read")
    assert (judged(unscored).status, judged(unscored).reason) == ("skipped", "the grade could not be read")
    assert judged(giving("excellent")).failure.kind == "bad_response"
    assert judged(giving("c")).failure.kind == "bad_response"
    assert judged(giving(float("inf"))).failure.kind == "bad_response"


def test_of_several_values_one_is_the_score_and_the_others_are_metrics():
    several = giving({"right": "C", "length": 12, "lost": None})
    got = judged(several, key="right")
    assert (got.value, got.metrics) == (1.0, {"length": 12.0})
    wrong = judged(several)
    assert wrong.failure.kind == "bug"
    assert "key:" in wrong.failure.detail


def test_what_is_no_scorer_is_refused():
    with pytest.raises(ResolveError, match="gives no scorer"):
        Inspect(function=lambda: print)
