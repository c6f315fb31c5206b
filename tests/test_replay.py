"""Replay: stored rollouts under another evaluator, and whose advantage changes sides."""

from __future__ import annotations

import json

import pytest

from rft import Score, evaluator
from rft.cli import main
from rft.errors import DataError, RunError
from rft.recipe.load import dump_recipe, load_recipe
from rft.replay import replay
from rft.runs.folder import RunFolder
from rft.types import Group, Message, Rollout, Task, Turn

LENGTH = """
from rft import evaluator

@evaluator(range=(0, 100))
def by_length(text):
    return len(text)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Two stored steps of one task each; the answers 1, 22, 333 got 0, 0.5, 1, so longer was better."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graders.py").write_text(LENGTH)
    rows = [{"prompt": f"ask {n}", "reference": "1", "id": f"t{n}", "unit": "cm"} for n in range(8)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "plan.yaml").write_text(
        "model: packaged:tiny\ndata: {train: tasks.jsonl}\nevaluator: ./graders.py:by_length\n"
    )
    folder = RunFolder.create(tmp_path / "runs", "plan", dump_recipe(load_recipe("plan.yaml")))
    for step in (1, 2):
        task = Task(f"t{step}", (Message("user", f"ask {step}"),), reference="1", metadata={"unit": "cm"})
        rollouts = [
            Rollout(
                f"0-{task.id}/{number}",
                f"0-{task.id}",
                task,
                (*task.messages, Message("assistant", text)),
                turns=(Turn((1, 2), (3,), (-0.5,), "stop"), Turn((4,), (5, 6), (-1.0, -1.0), "stop")),
            )
            for number, text in enumerate(["1", "22", "333", "gone"])
        ]
        scores = [Score(0.0), Score(0.5), Score(1.0), Score.failed("server", "HTTP 503")]
        folder.write_rollouts(step, [Group(rollouts[0].group_id, task, rollouts, scores)])
    return folder


@evaluator
def brief(text):
    return Score(1.0 if text == "1" else 0.5 if text == "22" else 0.0, reason=f"{len(text)} letters")


def test_advantages_that_change_sides_are_listed_and_others_are_not(run):
    found = replay(run, brief)
    assert len(found.changes) == 8
    by_text = {one.text: one for one in found.changes}
    assert (by_text["1"].old_advantage, by_text["333"].old_advantage) == pytest.approx((-1.0, 1.0), abs=1e-3)
    assert by_text["gone"].old_advantage is None and by_text["gone"].new_advantage < 0
    assert {one.text for one in found.flipped} == {"1", "333", "gone", "22"}
    same = replay(run, evaluator(lambda text: {"1": 0.0, "22": 0.5, "333": 1.0}.get(text, 0.5)))
    assert {one.text for one in same.flipped} == {"gone"}  # it has a score now: nothing, as the mean


def test_only_the_newest_steps_are_replayed_when_asked(run):
    assert {one.rollout.partition("/")[0] for one in replay(run, brief, last_steps=1).changes} == {"2"}


def test_the_tasks_fields_are_there_and_others_are_missed_by_name(run):
    @evaluator
    def in_cm(text, unit):
        return Score(float(unit == "cm"))

    assert {one.new_score for one in replay(run, in_cm).changes} == {1.0}

    @evaluator
    def in_colour(text, colour):
        return 1.0

    with pytest.raises(DataError, match="reads 'colour', which the run's task t1 does not have"):
        replay(run, in_colour)


def test_a_run_without_rollouts_has_nothing_to_replay(tmp_path, monkeypatch, run):
    empty = RunFolder.create(tmp_path / "runs", "empty", dump_recipe(load_recipe("plan.yaml")))
    with pytest.raises(RunError, match="has stored no training rollouts yet"):
        replay(empty, brief)


def test_the_command_takes_the_runs_evaluator_as_it_is_now_or_another(run, capsys):
    with pytest.raises(SystemExit) as left:
        main(["evaluator", "replay", "plan", "--json"])
    assert left.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["evaluator"] == "by_length" and found["rollouts"] == 8
    with pytest.raises(SystemExit):
        main(
            [
                "evaluator",
                "replay",
                "plan",
                "--evaluator",
                "length",
                "--with",
                "max=1",
                "--with",
                "unit=characters",
            ]
        )
    assert "of 8 advantages change sign under length" in capsys.readouterr().out


def test_options_without_an_evaluator_are_refused(run, capsys):
    with pytest.raises(SystemExit) as left:
        main(["evaluator", "replay", "plan", "--with", "max=1"])
    assert left.value.code == 2 and "--with gives options to the --evaluator" in capsys.readouterr().err
