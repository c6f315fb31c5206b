"""One step's numbers: each under the name that is explained, none made up."""

from __future__ import annotations

import math

from rft.engine.base import Published
from rft.learn.batch import to_batch
from rft.learn.update import UpdateStats
from rft.runs.metrics import find_metric
from rft.steplog import rollout_metrics, step_metrics
from rft.types import Group, Message, Rollout, Score, StopReason, Task, Turn

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
    metrics = step_metrics(groups, batch.stats, update, Published(7, "shared", 0.001, 0), SECONDS)
    assert metrics["reward/mean"] == 0.5 and metrics["reward/std"] == 0.5
    assert metrics["groups/used"] == 1 and metrics["tokens/trained"] == 8
    assert metrics["weight_version"] == 7 and metrics["time/publish_s"] == 0.5
    assert metrics["entropy"] == 1.2 and metrics["ess"] == 0.9
    assert all(math.isfinite(value) for value in metrics.values())
    assert [name for name in metrics if find_metric(name) is None] == []


def test_a_step_that_scored_nothing_has_no_mean_instead_of_a_zero():
    failed = Score.failed("server", "HTTP 503")
    groups = [group((failed, 3, "eos"), (failed, 5, "eos"))]
    batch = to_batch(groups, mask_truncated=False, min_valid=0.75)
    metrics = step_metrics(groups, batch.stats, UpdateStats(), Published(7, "shared", 0.001, 0), SECONDS)
    assert "reward/mean" not in metrics
    assert metrics["eval/failed"] == 2 and metrics["groups/too_few"] == 1
