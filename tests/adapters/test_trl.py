"""The bridge from TRL, with TRL itself as the oracle: the same function, called by its trainer and by us."""

from __future__ import annotations

import asyncio
import math

import pytest
from pydantic import ValidationError

from rft import Limits, Message, Rollout, Task, Turn, score
from rft.adapters.trl import TRL, TRLGroup
from rft.errors import ResolveError
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Use
from rft.scoring.runner import ScoringRunner

NOT_A_FUNCTION = 3


def share_right(completions, solution, log_metric, **kwargs):
    """Share of positions right; no opinion on an empty answer."""
    said = [completion[0]["content"].split() for completion in completions]
    log_metric("answers", len(said))
    return [
        sum(a == b for a, b in zip(words, right.split(), strict=False)) / 3 if words else None
        for words, right in zip(said, solution, strict=True)
    ]


async def by_tokens(completion_ids, **kwargs):
    await asyncio.sleep(0)
    return [float(len(ids)) for ids in completion_ids]


def best_of_all(completions, **kwargs):
    longest = max(len(completion[0]["content"]) for completion in completions)
    return [float(len(completion[0]["content"]) == longest) for completion in completions]


class Stateful:
    async def __call__(self, prompts, completions, **kwargs):
        return [1.0] * len(prompts)


def judged(function, completion, reference="1 2 3", **options):
    judge = TRL(function=function, **options)
    judge.limits = Limits(attempts=1)
    return score(judge, prompt="Sort: 3 1 2", completion=completion, reference=reference)


@pytest.fixture(scope="module")
def trainer(tiny_model_dir, tiny_tokenizer, tmp_path_factory):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    return trl.GRPOTrainer(
        model=str(tiny_model_dir),
        processing_class=tiny_tokenizer,
        reward_funcs=[share_right, by_tokens],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")), use_cpu=True, bf16=False, report_to="none"
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": "x"}]),
    )


def test_the_trainer_and_the_bridge_get_the_same_numbers_from_a_function(trainer):
    answers = ["1 2 3", "1 3 2", "", "3 2 1"]
    ids = [[5] * n for n in (3, 1, 4, 2)]
    row = {"prompt": [{"role": "user", "content": "Sort: 3 1 2"}], "solution": "1 2 3"}
    completions = [[{"role": "assistant", "content": answer}] for answer in answers]
    theirs = trainer._calculate_rewards([row] * 4, [row["prompt"]] * 4, completions, ids)

    task = Task("t", (Message("user", "Sort: 3 1 2"),), "1 2 3")
    rollouts = [
        Rollout(
            f"t/{i}",
            "t",
            task,
            (*task.messages, Message("assistant", answer)),
            turns=(Turn((), tuple(ids[i]), (0.0,) * len(ids[i]), "stop"),),
        )
        for i, answer in enumerate(answers)
    ]

    async def ours(judge):
        async with ScoringRunner(judge) as runner:
            return [await runner.score(rollout) for rollout in rollouts]

    for column, function in enumerate([share_right, by_tokens]):
        scores = asyncio.run(ours(TRL(function=function, reference="solution")))
        for one, reward in zip(scores, theirs[:, column].tolist(), strict=True):
            if math.isnan(reward):
                assert (one.value, one.status) == (None, "skipped")
            else:
                assert one.value == pytest.approx(reward)


def test_what_the_function_logs_are_metrics_and_what_it_reads_is_required():
    assert TRL(function=share_right).requires == {"solution"}
    judge = TRL(function=share_right, reference="solution")
    assert judge.requires == {"reference"}
    assert score(judge, prompt="?", completion="1 2 3", reference="1 2 3").metrics == {"answers": 1.0}


def test_a_plain_prompt_makes_completions_texts():
    seen = {}

    def look(prompts, completions):
        seen.update(prompts=prompts, completions=completions)
        return [0.5]

    task = Task("t", "Once upon")
    rollout = Rollout("t/0", "t", task, (*task.messages, Message("assistant", " a time")))

    async def run():
        async with ScoringRunner(TRL(function=look)) as runner:
            return await runner.score(rollout)

    assert asyncio.run(run()).value == 0.5
    assert seen == {"prompts": ["Once upon"], "completions": [" a time"]}


def test_an_object_with_an_async_call_is_awaited():
    assert judged(Stateful(), "x").value == 1.0


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        ([math.nan], "bad_response"),
        ([math.inf], "bad_response"),
        (["good"], "bug"),
        ([], "bug"),
        ([1, 2], "bug"),
    ],
)
def test_what_is_no_number_for_each_completion_is_a_failure(returned, kind):
    got = judged(lambda completions: returned, "x")
    assert (got.value, got.failure.kind) == (None, kind)


def test_what_the_function_raises_is_attributed_not_scored():
    def down(completions):
        raise ConnectionError("no route to the judge")

    got = judged(down, "x")
    assert (got.value, got.failure.kind) == (None, "transport")


def test_a_reward_outside_the_declared_range_is_refused():
    assert judged(lambda completions: [3.0], "x").value == 3.0
    assert judged(lambda completions: [3.0], "x", range=(0, 1)).failure.kind == "bad_response"
    with pytest.raises(ValidationError, match="range must rise"):
        TRL(function=best_of_all, range=(1, 0))


def test_with_group_the_function_sees_all_completions_of_one_prompt():
    judge = resolve_evaluator(
        Use(use="trl", **{"with": {"function": f"{__file__}:best_of_all", "group": True}})
    )
    assert isinstance(judge, TRLGroup)
    task = Task("t", (Message("user", "?"),))
    rollouts = [
        Rollout(f"t/{i}", "t", task, (*task.messages, Message("assistant", said)))
        for i, said in enumerate(["a", "abc", "ab"])
    ]

    async def run():
        async with ScoringRunner(judge) as runner:
            scores = [await runner.score(rollout) for rollout in rollouts]
            return await runner.settle(rollouts, scores)

    assert [s.value for s in asyncio.run(run())] == [0.0, 1.0, 0.0]


def test_a_name_that_leads_to_no_function_is_refused():
    with pytest.raises(ResolveError, match="is no function"):
        TRL(function=f"{__file__}:NOT_A_FUNCTION")
    with pytest.raises(ResolveError, match="write module:name"):
        TRL(function="accuracy")


def test_the_fingerprint_changes_with_the_function_and_the_settings():
    one = TRL(function=share_right)
    assert one.fingerprint() == TRL(function=share_right).fingerprint()
    assert one.fingerprint() != TRL(function=best_of_all).fingerprint()
    assert one.fingerprint() != TRL(function=share_right, reference="solution").fingerprint()
