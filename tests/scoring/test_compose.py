"""The status algebra of composites: what masks, what is left out, and for whom."""

from __future__ import annotations

import asyncio
import math

import pydantic
import pytest

from rft import Case, Evaluator, EvaluatorError, Limits, Score, evaluator, score
from rft.scoring.compose import NormalizeThenSum, Part, Product, Weighted
from rft.scoring.runner import ScoringRunner
from rft.types import Cost, Message, Rollout, Task


def giving(verdict, **options):
    @evaluator(limits=Limits(attempts=1), **options)
    async def judge(text):
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    return judge


DOWN = EvaluatorError("server", "HTTP 503")


def settle(judge, scores):
    task = Task("t", "?")
    rollouts = [Rollout(f"t/{i}", "t", task, task.messages) for i, _ in enumerate(scores)]

    async def run():
        async with ScoringRunner(judge) as runner:
            return await runner.settle(rollouts, scores)

    return asyncio.run(run())


def judged(**parts):
    return score(Weighted(**parts), prompt="?", completion="!")


def test_the_score_is_the_weighted_mean_and_says_what_went_in():
    got = judged(correct=giving(1.0), brief=Part(giving(0.4), weight=0.5))
    assert got.value == pytest.approx((1.0 + 0.5 * 0.4) / 1.5)
    assert got.reason == "correct 1, brief 0.4"
    assert got.parts["brief"].value == 0.4
    assert got.parts["brief"].evaluator == "judge"


def test_a_negative_weight_punishes_and_moves_the_range():
    punished = Weighted(correct=giving(1.0), waffle=Part(giving(1.0, range=(0, 2)), weight=-0.5))
    assert punished.range == (-2, 1)
    assert score(punished, prompt="?", completion="!").value == pytest.approx((1.0 - 0.5) / 1.5)


def test_a_weight_of_zero_is_reported_and_not_counted():
    got = judged(correct=giving(0.5), watched=Part(giving(1.0, range=(0, 9)), weight=0))
    assert (got.value, got.parts["watched"].value) == (0.5, 1.0)
    assert Weighted(correct=giving(0.5), watched=Part(giving(1, range=(0, 9)), weight=0)).range == (0, 1)


@pytest.mark.parametrize(
    ("verdict", "status", "told"),
    [
        (DOWN, "failed", "tone: HTTP 503"),
        (Score.skip("no gold"), "skipped", "tone: no gold"),
        (Score(None, "not_applicable"), "not_applicable", "tone: not_applicable"),
        (math.nan, "failed", "tone: score is nan, not a finite number"),
    ],
)
def test_a_required_part_without_a_number_masks_the_sample_with_parts_kept(verdict, status, told):
    got = judged(correct=giving(1.0), tone=giving(verdict))
    assert (got.value, got.status, got.reason) == (None, status, told)
    assert got.parts["correct"].value == 1.0


def test_a_failure_outweighs_a_decision_not_to_judge():
    got = judged(a=giving(Score.skip("no gold")), b=giving(DOWN))
    assert (got.status, got.failure.kind) == ("failed", "server")


def test_an_optional_part_without_a_number_is_left_out():
    got = judged(correct=giving(0.5), tone=Part(giving(DOWN), weight=3, optional=True))
    assert got.value == 0.5
    assert got.reason == "correct 0.5, tone left out"
    assert got.parts["tone"].failure.kind == "server"


def test_when_nothing_weighs_in_there_is_no_score():
    assert judged(tone=Part(giving(DOWN), optional=True)).status == "skipped"


def test_a_part_that_one_member_lacks_is_left_out_for_the_whole_group():
    judge = Weighted(correct=giving(1.0), tone=Part(giving(1.0), optional=True))

    def member(correct, tone):
        parts = {"correct": Score(correct), "tone": tone}
        value = (correct + tone.value) / 2 if tone.ok else correct
        return Score(value, parts=parts, evaluator="Weighted")

    group = [member(1.0, Score(0.0)), member(0.5, Score(1.0)), member(0.8, Score.failed("timeout", "slow"))]
    settled = settle(judge, group)
    assert [s.value for s in settled] == [1.0, 0.5, 0.8]  # only "correct" is comparable
    assert settled[0].reason == "correct 1, tone left out"
    assert settled[0].evaluator == "Weighted"
    assert [s.value for s in settle(judge, group[:2])] == [s.value for s in group[:2]]


def test_a_masked_member_does_not_decide_what_the_others_lose():
    judge = Weighted(correct=giving(1.0), tone=Part(giving(1.0), optional=True))
    whole = Score(0.75, parts={"correct": Score(1.0), "tone": Score(0.5)})
    masked = Score.failed("server", "correct: 503").stamped(
        parts={"correct": Score.failed("server", "503"), "tone": Score.failed("timeout", "slow")}
    )
    got = settle(judge, [whole, masked])
    assert (got[0].value, got[0].reason) == (0.75, "correct 1, tone 0.5")
    assert got[1] is masked


def test_the_parts_decide_what_is_required_and_deterministic():
    @evaluator(deterministic=False)
    def needs(text, reference, colour):
        return 1

    judge = Weighted(a=needs, b=giving(1.0))
    assert judge.requires == {"reference", "colour"}
    assert not judge.deterministic


def test_costs_of_the_parts_add_up():
    paid = Score(1.0, cost=Cost(usd=0.5, calls=1))
    assert judged(a=giving(paid), b=giving(paid)).cost == Cost(usd=1.0, calls=2)


def test_the_fingerprint_follows_weights_roles_and_parts():
    part = giving(1.0)
    prints = {
        Weighted(a=part).fingerprint(),
        Weighted(a=Part(part, weight=2.0)).fingerprint(),
        Weighted(a=Part(part, optional=True)).fingerprint(),
        Weighted(b=part).fingerprint(),
    }
    assert len(prints) == 4
    assert Weighted(a=part).fingerprint() == Weighted(a=Part(part)).fingerprint()


def test_parts_keep_their_own_retries_and_are_set_up_and_closed():
    calls = []

    class Flaky(Evaluator):
        limits = Limits(attempts=2, backoff_s=0)

        async def setup(self):
            calls.append("setup")

        async def evaluate(self, rollout):
            calls.append("evaluate")
            if calls.count("evaluate") == 1:
                raise ConnectionError
            return 1.0

        async def close(self):
            calls.append("close")

    got = judged(flaky=Flaky())
    assert (got.value, got.parts["flaky"].attempts, got.attempts) == (1.0, 2, 1)
    assert calls == ["setup", "evaluate", "evaluate", "close"]


def test_a_composite_of_nothing_is_refused():
    for parts in ({}, {"a": Part(giving(1.0), weight=0)}):
        with pytest.raises(TypeError, match="at least one part"):
            Weighted(**parts)


def test_a_recipe_names_parts_like_evaluators():
    asked = []

    def resolve(name, options):
        asked.append((name, dict(options)))
        return giving(1.0)

    made = Weighted.from_recipe(
        {
            "correct": "exact",
            "brief": {"use": "length", "with": {"max": 20}, "weight": 0.2, "optional": True},
        },
        resolve,
    )
    assert asked == [("exact", {}), ("length", {"max": 20})]
    assert (made.parts["brief"].weight, made.parts["brief"].optional) == (0.2, True)
    with pytest.raises(pydantic.ValidationError, match=r"correct\.wieght"):
        Weighted.from_recipe({"correct": {"use": "exact", "wieght": 2}}, resolve)


def test_golden_cases_of_a_composite_work_like_any_others():
    judge = Weighted(a=giving(1.0), b=giving(0.0))
    judge.cases = [Case("?", "!", expect=0.5)]
    assert all(
        case.holds(score(judge, prompt=case.prompt, completion=case.completion)) for case in judge.cases
    )


def test_many_rollouts_share_the_parts_slots():
    most = running = 0

    @evaluator(limits=Limits(concurrency=2))
    async def judge(text):
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return 1

    task = Task("t", "?")
    rollouts = [Rollout(f"t/{i}", "t", task, (*task.messages, Message("assistant", "!"))) for i in range(10)]

    async def run():
        async with ScoringRunner(Weighted(a=judge)) as runner:
            return await asyncio.gather(*map(runner.score, rollouts))

    assert all(s.ok for s in asyncio.run(run()))
    assert most == 2


# Products, and sums of what was made comparable first


def test_a_product_is_0_when_a_part_is():
    assert score(Product(a=giving(0.5), b=giving(0.5)), prompt="?", completion="!").value == 0.25
    assert score(Product(a=giving(0.5), b=giving(0.0)), prompt="?", completion="!").value == 0.0
    assert score(Product(a=giving(0.5), b=giving(DOWN)), prompt="?", completion="!").failure.kind == "server"


def test_the_range_of_a_product_holds_all_it_can_be():
    def part(low, high, optional=False):
        return Part(giving(1.0, range=(low, high)), optional=optional)

    assert Product(a=part(-1, 2), b=part(0, 3)).range == (-3, 6)
    assert Product(a=part(-1, 2), b=part(-4, 3)).range == (-8, 6)
    assert Product(a=part(2, 3), b=part(2, 4, optional=True)).range == (2, 12)


def test_a_product_leaves_out_for_all_what_one_lacks():
    judge = Product(a=giving(0.0), b=Part(giving(0.0), optional=True))
    group = [
        Score(0.25, parts={"a": Score(0.5), "b": Score(0.5)}),
        Score(0.75, parts={"a": Score(0.75), "b": Score.skip("?")}),
    ]
    assert [s.value for s in settle(judge, group)] == [0.5, 0.75]


def test_a_product_takes_no_weights():
    with pytest.raises(TypeError, match="Product takes no weights, and b has one"):
        Product(a=giving(1.0), b=Part(giving(1.0), weight=2.0))


@evaluator(range=(0, 100))
def length(text):
    return len(text)


@evaluator
def shouts(text):
    return text.isupper()


def test_parts_on_different_scales_weigh_the_same_once_normalised():
    judge = NormalizeThenSum(length=length, shouts=shouts)
    long_one, loud_one = score(judge, prompt="?", completions=["a" * 90, "A"])
    assert (long_one.value, loud_one.value) == (pytest.approx(0.0), pytest.approx(0.0))
    assert long_one.reason == "length 90, shouts 0"
    twice = NormalizeThenSum(length=length, shouts=Part(shouts, weight=2.0))
    got = score(twice, prompt="?", completions=["a" * 90, "A"])
    assert [s.value for s in got] == [pytest.approx(-1.0), pytest.approx(1.0)]


def test_a_part_that_is_the_same_for_all_adds_nothing():
    got = score(NormalizeThenSum(length=length, shouts=shouts), prompt="?", completions=["aa", "b"])
    assert [s.value for s in got] == [pytest.approx(1.0), pytest.approx(-1.0)]
    got = score(NormalizeThenSum(shouts=shouts), prompt="?", completions=["aa", "b"])
    assert [s.value for s in got] == [0.0, 0.0]


def test_one_answer_cannot_be_normalised():
    assert score(NormalizeThenSum(shouts=shouts), prompt="?", completion="a").status == "skipped"


def test_a_masked_member_has_no_part_in_the_mean():
    @evaluator(range=(0, 100))
    def fragile(text):
        if text == "down":
            raise DOWN
        return len(text)

    got = score(NormalizeThenSum(length=fragile), prompt="?", completions=["a" * 3, "down", "a"])
    assert [s.value for s in got] == [pytest.approx(1.0), None, pytest.approx(-1.0)]


def in_turns(value, *turns):
    return Score(value, turn_values=turns)


@pytest.mark.parametrize(
    ("whole", "turns"),
    [
        # (1 x 0.2 + 0.5 x 0.4, 1 x 0.8 + 0.5 x 0) / (1 + 0.5 + 0.5)
        (Weighted(a=giving(0), b=Part(giving(0), weight=0.5), c=Part(giving(0), weight=-0.5)), (0.2, 0.4)),
        (Weighted(a=giving(0), b=Part(giving(0), weight=0), c=giving(0)), (0.1, 0.4)),
        (Weighted(a=Part(giving(0), weight=0), b=Part(giving(0), weight=0), c=giving(0)), None),
        (Product(a=giving(0), b=giving(0), c=giving(0)), None),
    ],
)
def test_values_of_turns_are_weighed_like_the_scores_they_are_shares_of(whole, turns):
    parts = {"a": in_turns(1.0, 0.2, 0.8), "b": in_turns(0.4, 0.4, 0.0), "c": Score(0.5)}
    assert whole.combine([parts])[0].turn_values == (None if turns is None else pytest.approx(turns))


def test_values_of_turns_are_scaled_as_their_part_is():
    whole = NormalizeThenSum(a=giving(0), b=giving(0))
    parts = [{"a": in_turns(a, a / 2, a / 2), "b": Score(0.5)} for a in (0.0, 1.0)]
    # The deviation of 0 and 1 is 0.5.
    assert [score.turn_values for score in whole.combine(parts)] == [(0.0, 0.0), (1.0, 1.0)]


def test_a_composites_score_carries_the_values_of_turns():
    judge = giving(Score(1.0, turn_values=(0.25,)))
    weighed = Weighted(a=judge, b=giving(0.0))
    assert score(weighed, prompt="?", completion="!").turn_values == (0.125,)


def test_values_of_turns_survive_the_settling_of_a_group():
    judge = giving(Score(1.0, turn_values=(0.25,)))
    whole = NormalizeThenSum(a=judge, b=giving(0.0))
    task = Task("t", "?")
    said = (*task.messages, Message("assistant", "!"))
    rollouts = [Rollout(f"t/{i}", "t", task, said) for i in range(2)]

    async def run():
        async with ScoringRunner(whole) as runner:
            before = [await runner.score(rollout) for rollout in rollouts]
            # As if the judge had seen a difference.
            before[0] = before[0].stamped(parts=before[0].parts | {"a": in_turns(0.0, 0.0)})
            return await runner.settle(rollouts, before)

    # Values of 0 and 1 deviate by 0.5.
    assert [one.turn_values for one in asyncio.run(run())] == [(0.0,), (0.5,)]
