"""How a run's end is told in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft.around import status
from rft.errors import DataError, RunStopped
from rft.progress import Progress
from rft.runs.folder import RunFolder, list_runs


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path, "sort", "name: sort\n")


def end(run: RunFolder, error: BaseException | None, *, step: int = 0) -> None:
    progress = Progress(step=step)
    with pytest.raises(type(error)), status(run, 4, progress):
        raise error


def test_wrong_input_before_anything_is_done_leaves_the_run_before_the_newest(run, tmp_path):
    another = RunFolder.create(tmp_path, "sort", "name: sort\n")
    another.log_path.write_text("loading")
    end(another, DataError("tasks.jsonl:1: no prompt"))
    assert not another.path.exists()
    assert RunFolder.open("sort", tmp_path).path == run.path
    end(run, DataError("again"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "work",
    [
        "rollouts/heldout-000000.parquet",
        "checkpoints/step-000001/rft.json",
        "check.md",
        "stages/1-sft/20260101-000000-aaaa/recipe.yaml",
    ],
)
def test_wrong_input_that_shows_after_work_keeps_it(run, work):
    path = run.path / work
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    end(run, DataError("the disk is full"))
    assert path.exists()
    assert (run.status.state, run.status.message) == ("failed", "the disk is full")


def test_a_run_that_somebody_went_on_with_stays(run):
    run.event("resumed", step=0)
    end(run, DataError("tasks.jsonl is gone"))
    assert run.status.state == "failed"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("a fault of ours"), "failed"),
        (RunStopped("too many"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_what_is_not_wrong_input_is_there_to_be_looked_at(run, error, state):
    end(run, error)
    assert run.status.state == state


@pytest.mark.parametrize(("step", "state"), [(4, "finished"), (3, "stopped")])
def test_a_run_is_finished_with_its_last_step(run, step, state):
    with status(run, 4, Progress(step=step)):
        pass
    assert (run.status.state, run.status.step) == (state, step)
    assert [one.path for one in list_runs(Path(run.path).parents[1])] == [run.path]
