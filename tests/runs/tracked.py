"""A run of a few steps as trackers see it, stopped and gone on with; for the tests of both environments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from rft.recipe.schema import Recipe
from rft.runs.folder import RunFolder
from rft.runs.trackers import Trackers
from rft.types import Group, Message, Rollout, Score, Task, Turn

SECRET = "hunter2-hunter2"


def recipe(tracker: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "sort",
            "model": "packaged:tiny",
            "data": {"train": "tasks.jsonl"},
            "evaluator": {"use": "http", "with": {"api_key": SECRET, "url": "env:GRADER"}},
            "tracking": tracker,
        }
    )


def groups(step: int) -> list[Group]:
    task = Task("t", (Message("user", "Sort: 2 | 1"),))
    turn = Turn((1, 2), (3,), (-1.0,), "stop")
    said = [(*task.messages, Message("assistant", f"answer {n} of step {step} {SECRET}")) for n in range(3)]
    rollouts = [Rollout(f"t/{n}", "t", task, said[n], (turn,), "eos") for n in range(3)]
    return [
        Group("t", task, rollouts, [Score(0.5, reason="half"), Score(1.0), Score.failed("timeout", "slow")])
    ]


def begin(folder: Path) -> RunFolder:
    run = RunFolder.create(folder, "sort", "name: sort\n")
    run.event("heldout", step=0, when="before", **{"heldout/mean": 0.1, "heldout/low": 0.0})
    return run


def live(run: RunFolder, tracker: str, steps: tuple[int, ...], note: Callable[[str], None]) -> None:
    """One process's share of a run. Rewards are the step's tenth; a NaN reads back as null."""
    with Trackers(recipe(tracker), run, note) as trackers:
        for step in steps:
            run.write_rollouts(step, groups(step))
            run.record(step, {"reward/mean": step / 10, "grad_norm": float("nan"), "fail/timeout": 1.0})
            trackers.wake()


def two_lives(folder: Path, tracker: str) -> RunFolder:
    """Steps 1 to 3, then again from 2 to 4, as after a kill; nothing was complained of."""
    told: list[str] = []
    run = begin(folder)
    with patch("rft.runs.trackers._PATIENCE_S", 600):  # a busy machine is not a broken tracker
        live(run, tracker, (1, 2, 3), told.append)
        first, *_ = (run.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        run.rewind(1, run.marks() | {"metrics.jsonl": len(first)})
        live(run, tracker, (2, 3, 4), told.append)
    assert told == [], told
    return run
