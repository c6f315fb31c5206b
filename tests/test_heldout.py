"""Held-out answers read back: means by task, paired differences, answers side by side."""

from __future__ import annotations

import pytest

from rft.heldout import Judged, summarise
from rft.runs.folder import RunFolder
from rft.types import Group, Message, Rollout, Score, Task


def group(number, answers, prompt=None):
    task = Task(f"t{number}", prompt or (Message("system", "Be brief."), Message("user", f"ask {number}")))
    rollouts, scores = [], []
    for index, (text, value) in enumerate(answers):
        said = (*task.messages, Message("assistant", text))
        rollouts.append(Rollout(f"{number}-t/{index}", f"{number}-t", task, said))
        scores.append(Score.skip("broken") if value is None else Score(value))
    return Group(f"{number}-t", task, rollouts, scores)


@pytest.fixture
def run(tmp_path):
    run = RunFolder.create(tmp_path, "held", "name: held\n")
    run.write_rollouts(
        0,
        [group(0, [("a", 0.0), ("b", 0.5)]), group(1, [("c", None)]), group(2, [("d", 0.0)], "2+2=")],
        "heldout",
    )
    run.write_rollouts(
        4,
        [group(0, [("A", 1.0), ("B", 0.5)]), group(1, [("C", 1.0)]), group(2, [("D", 0.5)], "2+2=")],
        "heldout",
    )
    return run


def test_evaluations_come_back_in_order_and_apart_from_training(run):
    run.write_rollouts(1, [group(0, [("x", 1.0), ("y", 0.0)])])
    before, after = Judged.stored(run)
    assert before.by_task == {"0-t": 0.25, "2-t": 0.0}  # nobody scored task 1
    assert after.by_task == {"0-t": 0.75, "1-t": 1.0, "2-t": 0.5}


def test_the_difference_is_over_tasks_scored_both_times(run):
    before, after = Judged.stored(run)
    summary = summarise(run, 4, 1.0, before, after)
    assert summary.heldout_before.mean == 0.125
    assert summary.heldout_after.mean == 0.75
    assert summary.difference.mean == 0.5  # (0.75 - 0.25 + 0.5 - 0.0) / 2


def test_answers_stand_side_by_side_with_what_was_asked(run):
    before, after = Judged.stored(run)
    answers = summarise(run, 4, 1.0, before, after).answers
    assert [(answer.prompt, answer.before, answer.after) for answer in answers] == [
        ("ask 0", "a", "A"),
        ("ask 1", "c", "C"),
        ("2+2=", "d", "D"),
    ]
    assert (answers[1].reward_before, answers[1].reward_after) == (None, 1.0)


def test_nothing_scored_is_no_number(tmp_path):
    run = RunFolder.create(tmp_path, "held", "name: held\n")
    run.write_rollouts(0, [group(0, [("a", None)])], "heldout")
    (judged,) = Judged.stored(run)
    assert judged.estimate is None and judged.metrics() == {}
    summary = summarise(run, 0, 1.0, judged, judged)
    assert summary.heldout_before is None and summary.difference is None
