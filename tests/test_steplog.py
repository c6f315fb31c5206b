"""One step's numbers: each under the name that is explained, none made up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rft.engine.base import Published
from rft.heldout import Judged
from rft.learn.batch import to_batch
from rft.learn.update import UpdateStats
from rft.rollout.selection import Supplied
from rft.runs.metrics import find_metric
from rft.steplog import heldout_metrics, rollout_metrics, step_metrics
from rft.types import Group, Message, Rollout, Score, StopReason, Task, Turn


def supplied(*groups: Group) -> Supplied:
    return Supplied(list(groups), seconds=2.0)


SECONDS = {"step": 4.0, "rollout": 2.0, "update": 1.5, "publish": 0.5}


def group(*members: tuple[Score, int, StopReason]) -> Group:
    task = Task("t", (Message("user", "?"),))
    rollouts = [
        Rollout(
            f"t/{n}", "t", task, task.messages, (Turn((1, 2), (3,) * length, (-1.0,) * length, "stop"),), stop
        )
        for n, (_, length, stop) in enumerate(members)
    ]
    return Group("t", task, rollouts, [score for score, _, _ in members])


def test_rollouts_are_counted_by_what_became_of_them():
    parts = {"form": Score(1.0), "style": Score.failed("timeout", "slow")}
    metrics = rollout_metrics(
        [
            group(
                (Score(0.5, parts=parts), 3, "eos"),
                (Score(0.5, parts={"form": Score(0.0)}), 5, "length"),
                (Score.failed("server", "HTTP 503"), 2, "max_turns"),
                (Score.skip("no reference"), 2, "eos"),
            )
        ],
        seconds=2.0,
    )
    assert metrics == {
        "rollout/tokens_per_s": 6.0,
        "rollout/length_mean": 3.0,
        "rollout/length_max": 5,
        "rollout/truncated_frac": 0.5,
        "eval/ok": 2,
        "eval/skipped": 1,
        "eval/failed": 1,
        "eval/cached": 0,
        "eval/retries": 0,
        "time/evaluation_p50_s": 0.0,
        "time/evaluation_p95_s": 0.0,
        "fail/server": 1,
        "reward/part/form": 0.5,
        "reward/part_std/form": 0.5,
        "reward/group_std": 0.0,  # two scored members, alike
    }


def test_verdicts_that_were_known_already_say_nothing_of_how_long_one_takes():
    asked = [(Score(0.5, latency_s=float(n), attempts=1 + n % 2), 3, "eos") for n in range(20)]
    known = [(Score(0.5, latency_s=0.0, attempts=0, cached=True), 3, "eos")] * 80
    metrics = rollout_metrics([group(*asked, *known)], seconds=1.0)
    assert (metrics["eval/cached"], metrics["eval/retries"]) == (80, 10)
    assert (metrics["time/evaluation_p50_s"], metrics["time/evaluation_p95_s"]) == (10.0, 19.0)


def test_every_number_of_a_step_is_explained_and_finite():
    groups = [group((Score(0.0), 3, "eos"), (Score(1.0), 5, "eos"))]
    update = UpdateStats(
        loss=0.1, steps=1, grad_norm=2.0, learning_rate=1e-5, metrics={"entropy": 1.2, "ess": 0.9}
    )
    batch = to_batch(groups, mask_truncated=False, min_valid=0.75)
    metrics = step_metrics(supplied(*groups), batch, update, Published(7, "shared", 0.001, 0), SECONDS)
    assert metrics["reward/mean"] == 0.5 and metrics["reward/std"] == 0.5
    assert metrics["groups/used"] == 1 and metrics["tokens/trained"] == 8
    assert metrics["weight_version"] == 7 and metrics["time/publish_s"] == 0.5
    assert metrics["entropy"] == 1.2 and metrics["ess"] == 0.9
    assert all(math.isfinite(value) for value in metrics.values())
    assert [name for name in metrics if find_metric(name) is None] == []


def test_groups_that_were_set_aside_are_counted_and_pull_the_mean_reward():
    good = group((Score(0.0), 3, "eos"), (Score(1.0), 5, "eos"))
    useless = group((Score(1.0), 4, "eos"), (Score(1.0), 4, "eos"))
    batch = to_batch([good], mask_truncated=False, min_valid=0.75)
    refilled = Supplied([good], [useless], 2.0, {"groups/refilled": 1.0})
    metrics = step_metrics(refilled, batch, UpdateStats(), Published(7, "shared", 0.001, 0), SECONDS)
    assert metrics["reward/mean"] == 0.75  # (0 + 1 + 1 + 1) / 4
    assert metrics["rollout/tokens_per_s"] == 8.0  # (3 + 5 + 4 + 4) / 2
    assert metrics["eval/ok"] == 4 and metrics["groups/used"] == 1 and metrics["groups/refilled"] == 1


def test_a_step_that_scored_nothing_has_no_mean_instead_of_a_zero():
    failed = Score.failed("server", "HTTP 503")
    groups = [group((failed, 3, "eos"), (failed, 5, "eos"))]
    batch = to_batch(groups, mask_truncated=False, min_valid=0.75)
    metrics = step_metrics(supplied(*groups), batch, UpdateStats(), Published(7, "shared", 0.001, 0), SECONDS)
    assert "reward/mean" not in metrics
    assert metrics["eval/failed"] == 2 and metrics["groups/too_few"] == 1


def test_the_length_of_answers_is_split_by_what_they_got_against_their_own_group():
    hard = group((Score(0.0), 10, "eos"), (Score(0.0), 12, "eos"), (Score(0.4), 20, "eos"))
    easy = group((Score(0.9), 2, "eos"), (Score(1.0), 4, "eos"), (Score.skip("?"), 99, "eos"))
    alike = group((Score(0.5), 50, "eos"), (Score(0.5), 70, "eos"))
    metrics = rollout_metrics([hard, easy, alike], seconds=1.0)
    assert metrics["rollout/length_better"] == (20 + 4) / 2
    assert metrics["rollout/length_worse"] == (10 + 12 + 2) / 3
    # population deviations: sqrt(0.32 / 9) of (0, 0, 0.4), 0.05 of (0.9, 1.0), and 0
    assert metrics["reward/group_std"] == pytest.approx((math.sqrt(0.32 / 9) + 0.05 + 0.0) / 3)


def test_advantages_are_those_of_the_tokens_that_train():
    taught = group((Score(0.0), 1, "eos"), (Score(1.0), 3, "eos"))
    constant = group((Score(1.0), 7, "eos"), (Score(1.0), 7, "eos"))
    batch = to_batch([taught, constant], mask_truncated=False, min_valid=0.75)
    advantages_N = torch.full((batch.num_tokens,), 100.0)  # those of the constant group are nobody's business
    advantages_N[:4] = torch.tensor([-2.0, 1.0, 1.0, 1.0])
    published = Published(7, "shared", 0.001, 0)
    credited = replace(batch, advantages_N=advantages_N)
    metrics = step_metrics(supplied(taught, constant), credited, UpdateStats(), published, SECONDS)
    assert metrics["advantage/mean"] == 0.25 and metrics["advantage/max_abs"] == 2.0
    # (2.25^2 + 3 * 0.75^2) / 4 = 1.6875
    assert metrics["advantage/std"] == pytest.approx(math.sqrt(1.6875))


def test_the_gap_is_the_last_ten_steps_against_the_held_out_tasks():
    judged = Judged([{"group_id": "a", "reward": 0.2}, {"group_id": "b", "reward": 0.4}], seconds=1.5)
    rows = [{"reward/mean": 99.0, "reward/std": 9.0}] + [{"reward/mean": 0.5, "reward/std": 0.1}] * 9
    rows += [{"eval/failed": 8.0}, {"reward/mean": 1.5, "reward/std": 0.3}]  # a step without a single score
    metrics = heldout_metrics(judged, rows)
    assert metrics["heldout/mean"] == pytest.approx(0.3) and metrics["time/eval_s"] == 1.5
    assert metrics["heldout/gap"] == pytest.approx(0.6 - 0.3)
    assert metrics["heldout/gap_in_std"] == pytest.approx(0.3 / 0.12)


def test_no_gap_is_made_up_where_one_side_is_missing():
    judged = Judged([{"group_id": "a", "reward": 0.2}])
    assert "heldout/gap" not in heldout_metrics(judged, [])
    assert heldout_metrics(Judged([{"group_id": "a", "reward": None}]), [{"reward/mean": 0.5}]) == {}
    alike = heldout_metrics(judged, [{"reward/mean": 0.5, "reward/std": 0.0}] * 10)
    assert alike["heldout/gap"] == pytest.approx(0.3) and "heldout/gap_in_std" not in alike


def test_a_gap_of_the_first_steps_is_not_called_learning_by_heart():
    judged = Judged([{"group_id": "a", "reward": 0.2}])
    rows = [{"reward/mean": 0.6, "reward/std": 0.1}] * 10
    assert "heldout/gap_in_std" not in heldout_metrics(judged, rows[:9])
    assert "heldout/gap_in_std" in heldout_metrics(judged, rows)
