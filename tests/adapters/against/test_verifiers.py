"""Runs in .side-env, with verifiers 0.3.1: rubrics of `verifiers.legacy`, and tasks."""

from __future__ import annotations

import asyncio
import logging

import pytest
import verifiers.legacy as vf0
import verifiers.v1 as vf1

from rft import Limits, Message, Rollout, Task, score
from rft.adapters.verifiers import Verifiers, VerifiersGroup
from rft.adapters.verifiers_task import VerifiersTask
from rft.errors import ResolveError
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Use
from rft.scoring.runner import ScoringRunner


def exact(parser, completion, answer):
    return float(parser.parse_answer(completion) == answer)


def brief(completion, info):
    return float(len(completion[-1].content) <= info["most"])


async def attribute_and_item(completion, state):
    return float(completion[0]["content"] == completion[0].content == state["completion"][0]["content"])


RUBRIC = vf0.Rubric(
    funcs=[exact, brief, attribute_and_item], weights=[1.0, 0.5, 0.0], parser=vf0.XMLParser(["answer"])
)


def judged(rubric, completion, **fields):
    judge = Verifiers(function=rubric, reference="answer")
    return score(judge, prompt="2+2?", completion=completion, reference="4", **fields)


def test_a_rubric_is_the_weighted_sum_that_verifiers_itself_computes():
    completion = "<answer>4</answer>"
    got = judged(RUBRIC, completion, info={"most": 30})
    state = vf0.State(
        input={"prompt": [], "answer": "4", "info": {"most": 30}, "example_id": 0}, trajectory=[]
    )
    state["completion"] = [vf0.types.AssistantMessage(content=completion)]
    state["prompt"], state["task"] = [], "default"
    RUBRIC.funcs.pop()  # what it reads differs there: a message has no items
    RUBRIC.weights.pop()
    try:
        asyncio.run(RUBRIC.score_rollout(state))
    finally:
        RUBRIC.funcs.append(attribute_and_item)
        RUBRIC.weights.append(0.0)
    assert got.value == state["reward"] == 1.5
    assert got.metrics == {**state["metrics"], "attribute_and_item": 1.0}
    assert judged(RUBRIC, "<answer>5</answer>", info={"most": 3}).value == 0.0


def test_what_verifiers_logs_and_scores_as_zero_has_no_number_here():
    def down(completion):
        raise ConnectionError("the judge is down")

    rubric = vf0.Rubric(funcs=[down])
    state = {"prompt": [], "completion": [], "answer": "", "task": None}
    rubric.logger.setLevel(logging.CRITICAL)
    asyncio.run(rubric.score_rollout(state))
    assert state["reward"] == 0.0

    judge = Verifiers(function=rubric)
    judge.limits = Limits(attempts=1)
    got = score(judge, prompt="?", completion="!")
    assert got.value is None
    assert got.failure.kind == "transport"


def test_none_is_skipped_unless_it_only_was_a_metric():
    def opts_out(completion):
        return None

    one = lambda completion: 1.0  # noqa: E731  # short
    assert judged(vf0.Rubric(funcs=[one, opts_out]), "4").status == "skipped"
    assert judged(vf0.Rubric(funcs=[one, opts_out], weights=[1.0, 0.0]), "4").value == 1.0


def test_rubrics_in_a_group_of_rubrics_all_count():
    group = vf0.RubricGroup([vf0.Rubric(funcs=[exact]), vf0.Rubric(funcs=[brief], weights=[2.0])])
    assert judged(group, "4", info={"most": 1}).value == 3.0


def longest(completions):
    most = max(len(c[-1]["content"]) for c in completions)
    return [float(len(c[-1]["content"]) == most) for c in completions]


GROUPED = vf0.Rubric(funcs=[exact, longest])


def make_grouped():
    return GROUPED


def test_functions_of_a_group_see_all_completions_of_a_prompt():
    judge = resolve_evaluator(Use(use="verifiers", **{"with": {"function": f"{__name__}:make_grouped"}}))
    assert isinstance(judge, VerifiersGroup)
    with pytest.raises(ResolveError, match="VerifiersGroup"):
        Verifiers(function=GROUPED)
    task = Task("t", (Message("user", "2+2?"),), "4", {"answer": "4"})
    rollouts = [
        Rollout(f"t/{i}", "t", task, (*task.messages, Message("assistant", said)))
        for i, said in enumerate(["4", "four"])
    ]

    async def run():
        async with ScoringRunner(judge) as runner:
            scores = [await runner.score(rollout) for rollout in rollouts]
            return await runner.settle(rollouts, scores)

    assert [s.value for s in asyncio.run(run())] == [1.0, 1.0]


class Sum(vf1.TaskData):
    answer: str


class Addition(vf1.Task[Sum, vf1.State]):
    @vf1.reward(weight=2.0)
    async def right(self, task, trace) -> float:
        return float(trace.last_reply == task.answer)

    @vf1.metric
    async def turns(self, trace) -> float:
        return trace.num_turns


class Down(vf1.Task[Sum, vf1.State]):
    @vf1.reward
    async def asks(self, trace) -> float:
        raise TimeoutError("the judge is slow")


class NeedsBox(vf1.Task[Sum, vf1.State]):
    @vf1.reward
    async def runs(self, trace, runtime) -> float:
        return 1.0


def test_a_task_scores_the_rollout_as_its_trace():
    judge = resolve_evaluator(
        Use(use="verifiers", **{"with": {"function": f"{__name__}:Addition", "reference": "answer"}})
    )
    assert isinstance(judge, VerifiersTask)
    got = score(judge, prompt="2+2?", completion="4", reference="4")
    assert (got.value, got.metrics) == (2.0, {"right": 1.0, "turns": 1.0})
    assert score(judge, prompt="2+2?", completion="5", reference="4").value == 0.0


def test_what_a_tasks_reward_raises_is_attributed_to_whom_it_belongs():
    judge = VerifiersTask(function=Down, reference="answer")
    judge.limits = Limits(attempts=1)
    got = score(judge, prompt="?", completion="!", reference="4")
    assert got.value is None
    assert got.failure.kind == "timeout"


def test_a_task_whose_reward_needs_a_live_sandbox_is_refused():
    with pytest.raises(ResolveError, match="runs needs the sandbox"):
        VerifiersTask(function=NeedsBox)


def test_anything_else_is_refused_in_one_line():
    with pytest.raises(ResolveError, match="is a int; a verifiers Rubric is needed"):
        Verifiers(function=3)


def test_the_fingerprint_follows_functions_and_weights():
    def judge(weights):
        return Verifiers(function=vf0.Rubric(funcs=[exact, brief], weights=weights)).fingerprint()

    assert judge([1.0, 1.0]) == judge([1.0, 1.0])
    assert judge([1.0, 1.0]) != judge([1.0, 0.5])
