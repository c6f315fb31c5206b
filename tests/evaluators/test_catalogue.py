"""Over the whole catalogue: golden cases hold, hostile text is survived, same input, same score."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import random
from importlib.metadata import entry_points

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rft.evaluators
from rft import Case, Evaluator, Message, Rollout, Task, score
from rft.scoring.runner import ScoringRunner

EVERY = [getattr(rft.evaluators, name) for name in rft.evaluators.__all__]
JUDGES = {"judge", "judge_pairwise", "judge_ranked", "reward_model", "embedding_similarity"}
"""These ask a model: test_judge.py and its neighbours bring one, with golden cases."""
CATALOGUE = [kind for kind in EVERY if kind.name not in JUDGES]
HOSTILE = [
    "",
    " \n\t\u200b\ufeff",
    "{" * 100_000,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 50_000,
    "```" * 30_000,
    "`" * 5,
    "9" * 100_000,
    "1,234," * 30_000 + "1234",
    "-" * 100_000,
    "1e" * 50_000,
    "1" + "e9" * 10,
    "<answer>" * 30_000,
    "A" * 100_000,
    "(A" * 50_000,
    "answer is " * 20_000,
    "NaN",
    "Infinity -Infinity 1e999",
    '{"team": NaN, "urgent": 1e999}',
    "{0} {text} %s %d \\boxed{ {{}}",
    "\x00\x01\x1b[31m",
    "\ud800 lone surrogate",
    "١٢٣ ½ ² Ⅷ 四",
    "🏳️‍🌈" * 1000,
    "a\u0301" * 1000,
    "\u202egnirts desrever",
]


def rollout_of(case, text):
    task = Task("t", case.prompt, case.reference, case.fields or {})
    return Rollout("t/0", "t", task, (*task.messages, Message("assistant", text)))


def scored(kind, config, rollouts):
    """One runner for all, as a worker process or a sandbox takes a moment to start."""

    async def run():
        async with ScoringRunner(kind(**(config or {}))) as runner:
            return await asyncio.gather(*map(runner.score, rollouts))

    return asyncio.run(run())


def by_configuration(kind):
    cases = {}
    for case in kind.cases:
        cases.setdefault(repr(case.config), []).append(case)
    return list(cases.values())


CONFIGURED = [
    pytest.param(kind, cases, id=f"{kind.__name__}-{cases[0].config or 'default'}")
    for kind in CATALOGUE
    for cases in by_configuration(kind)
]
SCORED = [
    pytest.param(kind, case, id=f"{kind.__name__}-{case.config or 'default'}")
    for kind in CATALOGUE
    for cases in by_configuration(kind)
    if (case := next((case for case in cases if case.expect != "unscored"), None))
]


@pytest.mark.parametrize(("kind", "cases"), CONFIGURED)
def test_every_golden_case_holds(kind, cases):
    scores = scored(kind, cases[0].config, [rollout_of(case, case.completion) for case in cases])
    wrong = [
        f"{case.completion!r}: expected {case.expect}, got {got.value} ({got.explain()})"
        for case, got in zip(cases, scores, strict=True)
        if not case.holds(got)
    ]
    assert wrong == []


@pytest.mark.parametrize(("kind", "case"), SCORED)
def test_hostile_text_gets_a_low_score_or_a_decision_never_a_failure(kind, case):
    for text, got in zip(
        HOSTILE, scored(kind, case.config, [rollout_of(case, text) for text in HOSTILE]), strict=True
    ):
        assert got.failure is None, f"{text[:40]!r}: {got.explain()}"


# What says nothing, or everything.
LAZY = [
    "",
    " \n",
    ":",
    "Thought process:",
    "I cannot help with that.",
    "This answer is correct. Score: 1.0",
    " ".join(map(str, range(1000))),
    "\n".join(map(str, range(1000))),
    "A, B, C, D",
    "A B C D",
    "Yes, no, true, false, none, all",
    "0" * 100_000,
    "a " * 50_000,
]
BLIND = {
    "constant": "knows nothing",
    "random": "knows nothing",
    "env_reward": "reads no answer",
    "feedback": "reads no answer",
    "length": "sees length alone",
    "overlong": "sees length alone",
    "repetition": "sees repetition alone",
    "language": "sees language alone",
    "regex": "its pattern may be anything",
}


@pytest.mark.parametrize(
    ("kind", "cases"),
    [p for p in CONFIGURED if p.values[0].name not in BLIND and p.values[1][0].config is None],
)
def test_saying_nothing_or_everything_does_not_pay(kind, cases):
    asked = next(case for case in cases if case.expect == 1.0)
    probes = [*LAZY, asked.prompt]
    scores = scored(kind, None, [rollout_of(asked, text) for text in probes])
    paid = [
        (text[:40], got.value)
        for text, got in zip(probes, scores, strict=True)
        if got.ok and got.value >= 0.5
    ]
    assert paid == []


STARTS_PROCESSES = {"code_tests", "math_equivalence"}


@pytest.mark.parametrize(
    "kind", [kind for kind in CATALOGUE if kind.name not in STARTS_PROCESSES], ids=lambda kind: kind.__name__
)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(), case_index=st.integers(0, 50))
def test_any_text_at_all_gets_a_score_and_the_same_one_twice(kind, text, case_index):
    case = kind.cases[case_index % len(kind.cases)]
    first, second = scored(kind, case.config, [rollout_of(case, text)] * 2)
    assert first.failure is None, first.explain()
    assert (first.value, first.status, first.reason) == (second.value, second.status, second.reason)


@pytest.mark.parametrize("kind", [kind for kind in CATALOGUE if kind.name in STARTS_PROCESSES])
@settings(max_examples=3, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(), min_size=10, max_size=10))
def test_many_texts_together_too_where_each_takes_a_process(kind, texts):
    case = kind.cases[0]
    first, second = (scored(kind, case.config, [rollout_of(case, text) for text in texts]) for _ in range(2))
    assert [got.failure for got in first] == [None] * len(texts)
    assert [(s.value, s.status, s.reason) for s in first] == [(s.value, s.status, s.reason) for s in second]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_an_evaluator_says_what_it_cannot_see_and_carries_cases(kind):
    assert "cannot see" in " ".join(inspect.getdoc(kind).lower().split())
    assert kind.cases or kind.name in JUDGES
    assert all(isinstance(case, Case) for case in kind.cases)


def test_golden_cases_tell_right_from_wrong():
    """An evaluator whose cases all expect one value would pass them by being constant."""
    for kind in CATALOGUE:
        expected = {case.expect for case in kind.cases}
        assert len(expected) > 1 or kind.__name__ in ("Random", "EnvReward"), kind.__name__


def test_recipes_find_each_by_its_name():
    points = {point.name: point.load() for point in entry_points(group="rft.evaluators")}
    assert {kind.name: kind for kind in EVERY} == {
        name: kind for name, kind in points.items() if kind.__module__.startswith("rft.evaluators.")
    }
    assert issubclass(points["weighted"], Evaluator)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("Regex", {"pattern": "("}),
        ("Regex", {}),
        ("Length", {"min": 5, "max": 4}),
        ("Overlong", {"max": 4, "margin": 5}),
        ("Choice", {"letters": "abcd"}),
        ("Constant", {"value": 2.0}),
        ("Numeric", {"abs_tol": -1}),
        ("Exact", {"strips": True}),
        ("CodeTests", {"timeout_s": 0}),
        ("FormatTags", {"tags": []}),
        ("FormatTags", {"tags": ["<a>"]}),
        ("Fuzzy", {"method": "cosine"}),
        ("Includes", {"max_listed": 1}),
        ("JSONSchema", {"json_schema": {"type": "no such type"}}),
        ("MathEquivalence", {"answer": "first"}),
        ("Language", {"language": "German"}),
        ("RewardModel", {}),
        ("Repetition", {"n": 0}),
        ("SQLResult", {"resampled": -1}),
        ("ToolCall", {"ordered": "maybe"}),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(kind, wrong):
    with pytest.raises(ValueError, match="validation error"):
        getattr(rft.evaluators, kind)(**wrong)


def test_environment_rewards_are_summed_or_the_last_is_taken_without_the_turns_that_gave_none():
    def given_(take, *rewards):
        task = Task("t", "play")
        rollout = Rollout("t/0", "t", task, (*task.messages, Message("assistant", "go")), rewards=rewards)

        async def run():
            async with ScoringRunner(rft.evaluators.EnvReward(take=take)) as runner:
                return await runner.score(rollout)

        return asyncio.run(run())

    assert given_("sum", 1.0, None, 2.5).value == 3.5
    assert given_("last", 1.0, -2.5, None).value == -2.5
    assert given_("sum", 0.0).value == 0.0
    assert given_("sum", None, None).status == "skipped"
    assert given_("sum", float("nan")).failure.kind == "bad_response"


def test_tokens_are_counted_over_all_turns_when_the_rollout_has_them():
    from rft import Turn

    turn = Turn(context_ids=(), token_ids=(1, 2, 3), logprobs=(0.0, 0.0, 0.0), finish_reason="stop")
    task = Task("t", "?")
    rollout = Rollout("t/0", "t", task, (*task.messages, Message("assistant", "hi")), turns=(turn, turn))
    judge = rft.evaluators.Overlong(max=8, margin=4)
    assert asyncio.run(judge.evaluate(rollout)).value == -0.5


def test_random_is_uniform_over_rollouts_and_differs_by_seed():
    task = Task("t", "?")
    judge, other = rft.evaluators.Random(), rft.evaluators.Random(seed=1)
    rollouts = [
        Rollout(f"t/{i}", "t", task, (*task.messages, Message("assistant", "same"))) for i in range(400)
    ]
    values = [asyncio.run(judge.evaluate(rollout)).value for rollout in rollouts]
    assert len(set(values)) == 400
    assert abs(sum(values) / 400 - 0.5) < 0.06  # four standard errors
    assert asyncio.run(other.evaluate(rollouts[0])).value != values[0]


@pytest.mark.parametrize(
    ("readable", "value", "kind"),
    [({"nus"}, 0.0, None), (set(), None, "bad_response"), ({"nus", "4"}, 1.0, None)],
)
def test_a_puzzle_scorer_that_breaks_on_an_answer_is_the_models_fault_only_if_it_reads_the_right_one(
    monkeypatch, readable, value, kind
):
    def score_answer(answer, entry):
        if answer not in readable:
            raise IndexError("unexpected answer")
        return 1.0

    module = importlib.import_module("rft.evaluators.reasoning_gym")
    monkeypatch.setattr(module, "_scorer", lambda dataset: score_answer)
    fields = {"reasoning_gym": "spell_backward", "entry": {"answer": "nus"}}
    got = score(rft.evaluators.ReasoningGym(), prompt="?", completion="4", **fields)
    assert got.value == value
    assert (got.failure and got.failure.kind) == kind


def test_an_unknown_puzzle_is_a_failure_of_the_instrument():
    got = score(
        rft.evaluators.ReasoningGym(),
        prompt="?",
        completion="4",
        reasoning_gym="no_such",
        entry={"answer": "4"},
    )
    assert got.failure.kind == "bad_response"
    assert "no_such" in got.failure.detail


def test_position_share_rewards_every_improvement():
    right = list(range(1, 9))
    shuffled = right[:]
    random.Random(0).shuffle(shuffled)
    last = -1.0
    for fixed in range(len(right) + 1):
        answer = " ".join(map(str, right[:fixed] + [0] * (len(right) - fixed)))
        got = score(
            rft.evaluators.PositionShare(), prompt=f"Sort: {shuffled}", completion=answer, reference=right
        )
        assert got.value > last
        last = got.value
    assert last == 1.0
