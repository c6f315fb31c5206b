"""Previews: the advantages are training's own, what cannot be known is said, and foreign text stays text."""

from __future__ import annotations

import asyncio
import html
import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rft import EvaluatorError, GroupEvaluator, Message, Rollout, Score, Task, evaluator
from rft.errors import UserError
from rft.evaluators import Length
from rft.learn.batch import to_batch
from rft.learn.credit import assign_credit
from rft.notebook.preview import advantages, diff, preview
from rft.notebook.text import MOST_GROUPS
from rft.recipe.load import recipe_from
from rft.recipe.schema import AlgorithmSpec
from rft.scoring.compose import Part, Weighted
from rft.types import Group, Turn


def answers(name: str, *texts: str, reference: str | None = None, stop="eos") -> list[Rollout]:
    task = Task(name, (Message("user", f"Ask {name}?"),), reference)
    turn = Turn((1, 2), (3,), (-1.0,), "stop")
    return [
        Rollout(f"{name}/{n}", name, task, (*task.messages, Message("assistant", text)), (turn,), stop=stop)
        for n, text in enumerate(texts)
    ]


@evaluator
def number(text):
    """The number that the text is; "down" is the service's failure."""
    if text == "down":
        raise EvaluatorError("server", "HTTP 503")
    return Score(float(text) / 10, reason=f"it says {text}")


@evaluator
def flipped(text):
    return 1 - float(text) / 10


def recipe(**settings):
    values = {"model": "packaged:tiny", "data": {"train": "t.jsonl"}, "evaluator": "exact"}
    return recipe_from(values | settings, source="a test", folder=Path())


def test_answers_above_their_groups_mean_are_pushed_up_and_failed_ones_masked():
    shown = preview(number, [*answers("a", "10", "0", "5", "down"), *answers("b", "3", "3")])
    first, second = shown.groups
    assert [row.push for row in first] == ["up", "down", "none", "masked"]
    assert first[0].advantage == pytest.approx(0.5 / (0.5 + 1e-4))
    assert first[3].advantage is None and first[3].masked == "failed (server: HTTP 503)"
    assert [row.push for row in second] == ["none", "none"]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("mask_truncated", [True, False])
def test_advantages_are_those_of_the_training_batch(scale, mask_truncated):
    groups = [
        Group(
            "a", Task("a", "?"), answers("a", *"1234"), [Score(0.1), Score(0.9), Score.skip("?"), Score(0.4)]
        ),
        Group("b", Task("b", "?"), answers("b", *"12", stop="length"), [Score(0.0), Score(1.0)]),
        Group("c", Task("c", "?"), answers("c", *"123"), [Score(0.7), Score(0.2), Score(0.2)]),
        Group("d", Task("d", "?"), answers("d", *"12"), [Score(0.7), Score.failed("server", "down")]),
    ]
    batch = assign_credit(
        to_batch(groups, mask_truncated=mask_truncated, min_valid=0.75), AlgorithmSpec(scale_rewards=scale)
    )
    wanted = dict(
        zip([one.rollout_id for one in batch.sequences], batch.advantages_N.tolist(), strict=True)
    )  # every rollout has one token
    truncated = "mask" if mask_truncated else "score"
    found = advantages(
        groups,
        recipe(algorithm={"scale_rewards": scale}, rollout={"truncated": truncated, "min_valid": 0.75}),
    )
    shown = {
        rollout.id: value
        for group, values in zip(groups, found, strict=True)
        for rollout, value in zip(group.rollouts, values, strict=True)
        if value is not None
    }
    assert shown == wanted
    assert torch.isfinite(batch.advantages_N).all() and ("b/0" in shown) is not mask_truncated


def test_advantages_take_the_weights_of_a_composed_evaluator():
    weighted = Weighted(number=number, brief=Part(Length(max=1), weight=-9.0))
    rollouts = answers("a", "1", "22")
    shown = preview(weighted, rollouts, recipe=recipe(algorithm={"advantage": "gdpo"})).groups[0]
    alike = preview(number, rollouts, recipe=recipe(algorithm={"advantage": "gdpo"})).groups[0]
    assert [row.push for row in shown] == [row.push for row in alike]


@pytest.mark.parametrize("turns", [(), None])
def test_answers_without_tokens_have_advantages_too(turns):
    rollouts = [replace(one, turns=one.turns if turns is None else turns) for one in answers("a", "1", "2")]
    for advantage in ("group", "rloo", "reinforce_pp", "max_rl"):
        shown = preview(number, rollouts, recipe=recipe(algorithm={"advantage": advantage})).groups[0]
        assert {row.push for row in shown} == {"up", "down"}


def test_a_recipe_decides_who_is_left_out_and_why_is_said():
    rollouts = [*answers("a", "1", "2", stop="length"), *answers("b", "1", "down", "down")]
    cut, few = preview(number, rollouts, recipe=recipe(rollout={"truncated": "mask"})).groups
    assert {row.masked for row in cut} == {"cut by a limit (rollout.truncated: mask)"}
    assert few[0].masked == "too few answers of its group are left to compare it with"
    unscaled = preview(number, answers("a", "0", "10"), recipe=recipe(algorithm={"scale_rewards": "none"}))
    assert [row.advantage for row in unscaled.rows] == [-0.5, 0.5]


def test_groups_are_judged_as_groups():
    class Longest(GroupEvaluator):
        async def evaluate_group(self, rollouts):
            longest = max(len(rollout.text) for rollout in rollouts)
            return [float(len(rollout.text) == longest) for rollout in rollouts]

    assert [row.push for row in preview(Longest(), answers("a", "1", "123")).rows] == ["down", "up"]


def test_a_diff_lists_what_is_pushed_another_way():
    rollouts = [*answers("a", "10", "0", "5"), *answers("b", "3", "3")]
    found = diff(number, flipped, rollouts)
    assert [(before.rollout.id, before.push, after.push) for before, after in found.changed] == [
        ("a/0", "up", "down"),
        ("a/1", "down", "up"),
    ]
    assert found.rescored == 4  # all but the 5
    assert "2 of 5 answers are pushed another way; 4 have another score" in repr(found)
    same = diff(number, number, rollouts)
    assert not same.changed and "all 5 answers get the score they had" in repr(same)


def test_it_works_in_a_running_loop_as_notebooks_have_one():
    async def cell():
        return preview(number, answers("a", "10", "0"))

    assert [row.push for row in asyncio.run(cell()).rows] == ["up", "down"]


def test_without_torch_scores_are_shown_and_one_sentence_says_what_is_missing(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    shown = preview(number, answers("a", "10", "0", "down"))
    assert [(row.push, row.score.value) for row in shown.rows] == [
        ("unknown", 1.0),
        ("unknown", 0.0),
        ("masked", None),
    ]
    for text in (repr(shown), html.unescape(shown._repr_html_())):
        assert "it needs torch (pip install 'rft-loop[cpu]', or [gpu])" in " ".join(text.split())


def test_nothing_to_score_is_refused():
    with pytest.raises(UserError, match="no rollouts to score"):
        preview(number, [])


# ---- how it looks


def test_text_shows_push_score_reason_and_answer():
    shown = repr(preview(number, [*answers("a", "10", "0", "5", "down"), *answers("b", "3", "3")]))
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == "number: 1 pushed up, 1 pushed down, 3 not moved, 1 masked"
    assert "▼ -1.00 0 it says 0 0" in lines
    assert "– masked none failed (server: HTTP 503) down" in lines
    assert "Ask b? (all scores equal: no gradient)" in lines


def test_parts_are_shown_once():
    both = Weighted(number=number, brief=Part(Length(max=1, unit="characters"), weight=0.5))
    shown = preview(both, answers("a", "1", "10"))
    assert "number 0.1, brief 1" in repr(shown)
    assert repr(shown).count("brief 1") == 1
    page = shown._repr_html_()
    assert re.search(r'class="part"[^>]*>brief 1<', page) and "number 0.1, brief" not in page


EVIL = "<script>alert(1)</script> <img src=x onerror=alert(1)> \"'&amp; \x1b[31m \u202e $x$"


@pytest.mark.parametrize("where", ["prompt", "answer", "reason", "reference", "part", "name", "failure"])
def test_no_text_of_a_model_or_an_evaluator_becomes_markup_or_control(where):
    @evaluator(name=EVIL if where == "name" else "evil")
    def evil(text):
        if where == "failure":
            raise EvaluatorError("server", EVIL)
        parts = {EVIL: Score(0.5, reason=EVIL)} if where == "part" else {}
        return Score(float(len(text) % 2), reason=EVIL if where == "reason" else None, parts=parts)

    said = EVIL if where == "answer" else "a"
    asked = Message("user", EVIL if where == "prompt" else "?")
    task = Task("t", (asked,), EVIL if where == "reference" else None)
    rollouts = [
        Rollout(f"t/{n}", "t", task, (*task.messages, Message("assistant", said + "b" * n))) for n in (0, 1)
    ]
    for shown in (preview(evil, rollouts), diff(evil, flipped if where == "name" else evil, rollouts)):
        page = shown._repr_html_()
        assert "<script" not in page and "<img" not in page
        assert "\x1b" not in page and "\u202e" not in page
        assert "\x1b" not in repr(shown) and "\u202e" not in repr(shown)
    if where != "failure":  # details of failures are cut and redacted before they come here
        assert "&lt;script&gt;alert(1)" in preview(evil, rollouts)._repr_html_()


def test_a_long_answer_is_folded_and_a_long_preview_says_what_it_leaves_out():
    groups = [row for n in range(MOST_GROUPS + 3) for row in answers(f"t{n}", "1", "2")]
    shown = preview(number, groups)
    for text in (repr(shown), shown._repr_html_()):
        assert "and 3 more prompts" in text and f"Ask t{MOST_GROUPS}?" not in text
    long = preview(Length(max=10), answers("a", "word " * 500, ""))
    assert "<details><summary>word word" in long._repr_html_() and "(nothing)" in long._repr_html_()
