"""Going on: data and optimizer exactly where they were, from the newest checkpoint that can be trusted."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from rft import background, evaluator
from rft.begin import begin
from rft.data.order import TaskOrder
from rft.errors import DataError, RunError
from rft.fork import Origin
from rft.learn.packing import Packing
from rft.learn.probe import Abilities
from rft.learn.update import Updater, build_optimizer
from rft.models.policy import Policy
from rft.progress import Progress
from rft.recipe.load import load_recipe
from rft.recipe.schema import Recipe, RolloutSpec
from rft.rollout.selection import Selection
from rft.rollout.supply import Supply
from rft.runs import checkpoint
from rft.runs.checkpoint import checkpoints
from rft.runs.folder import RunFolder
from rft.scoring.runner import ScoringRunner
from rft.scoring.supervision import Supervisor
from rft.types import Group, Rollout, Score, Task

TASKS = [Task(f"t{number}", str(number)) for number in range(5)]
PACKING: Packing = "single"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "sort", "")


def recipe(**sections: Any) -> Recipe:
    needed = {"model": {"source": "packaged:tiny"}, "data": {"train": "t.jsonl"}, "evaluator": "exact"}
    return Recipe.model_validate(needed | sections)


def assembled(
    folder: Path,
    spec: Recipe,
    dtype: str = "float32",
    weights_from: Path | None = None,
    tasks: list[Task] = TASKS,
) -> Any:
    """The parts that have a state."""
    policy = Policy.load(spec.model, folder, dtype=dtype, weights_from=weights_from)
    updater = Updater(
        policy.model,
        build_optimizer(policy.model, spec.algorithm, spec.train),
        spec.algorithm,
        spec.train,
        temperature=1.0,
        max_completion_tokens=8,
        abilities=Abilities(PACKING, True),
    )
    runner = ScoringRunner(judge("lambda text: 1.0"))
    order = TaskOrder(tasks, seed=0)
    return SimpleNamespace(
        recipe=spec,
        order=order,
        supply=Supply(
            Selection(*[cast(Any, None)] * 2, order, spec.rollout, groups_per_step=2, seed=0, teaches=bool),
            steps=4,
            one_step_off=False,
        ),
        policy=policy,
        updater=updater,
        supervisor=Supervisor(runner, spec, event=lambda kind, **details: None, note=lambda text: None),
        weights=SimpleNamespace(writing=contextlib.nullcontext),
    )


def step(parts: Any) -> None:
    ids = torch.arange(3, 23)[None]
    parts.policy.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    parts.updater.optimizer.step()


def save(run: RunFolder, folder: Path, steps: int, spec: Recipe) -> None:
    parts = assembled(folder, spec)
    progress = Progress()
    for _ in range(steps):
        parts.order.take(2)
        step(parts)
        progress.step += 1
        run.record(progress.step, {"loss": 0.5})
        progress.save(run, parts, wait=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_that_goes_on_does_what_it_would_have_done(run, tiny_model_dir, dtype):
    spec = recipe(train={"learning_rate": 1e-2, "optimizer": {"schedule": "linear"}, "steps": 9})
    parts = assembled(tiny_model_dir, spec, dtype)
    for _ in range(3):
        step(parts)
    parts.order.take(7)
    Progress(step=3).save(run, parts, wait=True)

    again = Progress.newest(run, pytest.fail)
    assert again.step == 3 and again.checkpoint == run.checkpoints_path / "step-000003"
    parts2 = assembled(tiny_model_dir, spec, dtype, weights_from=again.checkpoint)
    again.restore(parts2, pytest.fail)
    assert parts2.order.take(8) == parts.order.take(8)
    assert parts2.updater.optimizer.steps == 3
    assert parts2.updater.optimizer.learning_rate == parts.updater.optimizer.learning_rate
    for _ in range(2):
        step(parts)
        step(parts2)
    for one, other in zip(parts.policy.trained_parameters(), parts2.policy.trained_parameters(), strict=True):
        assert torch.equal(one, other)


def test_random_numbers_go_on_where_they_were(run, tiny_model_dir):
    parts = assembled(tiny_model_dir, recipe())
    np.random.seed(5)
    random.seed(5)

    def drawn() -> list[float]:
        return [np.random.rand(), np.random.randn(), random.random(), random.gauss()]

    drawn()
    Progress(step=1).save(run, parts, wait=True)
    expected = drawn()
    drawn()
    Progress.newest(run, pytest.fail).restore(assembled(tiny_model_dir, recipe()), pytest.fail)
    assert drawn() == expected


def test_what_was_known_of_failures_is_still_known_unless_they_stopped_the_run(run, tiny_model_dir):
    spec = recipe(train={"max_bugs": 1, "min_groups": 0.0})
    rollout = Rollout("r", "g", TASKS[0], (), stop="end")
    for bugs, known in ((1, 1), (2, 0)):
        parts = assembled(tiny_model_dir, spec)
        group = Group("g", TASKS[0], (rollout,) * bugs, (Score.failed("bug", "KeyError"),) * bugs)
        background.run(parts.supervisor.after(1, [group]))
        Progress(step=bugs).save(run, parts, wait=True)
        parts = assembled(tiny_model_dir, spec)
        Progress.newest(run, pytest.fail).restore(parts, pytest.fail)
        assert parts.supervisor.state()["watch"].get("counts", {}).get("bug", 0) == known


def test_the_optimizer_waits_for_the_checkpoint_to_be_read_and_no_longer(run, tiny_model_dir, monkeypatch):
    parts = assembled(tiny_model_dir, recipe())
    writing, may_write, may_end = threading.Event(), threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        writing.set()
        may_write.wait()
        (folder / "model.safetensors").write_text("whole")

    monkeypatch.setattr(parts.policy, "saver", lambda: slow)
    honest = checkpoint.sync_tree
    monkeypatch.setattr(checkpoint, "sync_tree", lambda root: (may_end.wait(), honest(root)))
    progress = Progress(step=1)
    progress.save(run, parts)
    assert writing.wait(10)
    wrote: list[str] = []

    def write() -> None:
        with progress.writing(parts, 2):
            wrote.append("now")

    updating = threading.Thread(target=write)
    updating.start()
    updating.join(0.2)
    assert wrote == [] and checkpoints(run) == []
    may_write.set()
    updating.join(10)
    assert wrote == ["now"] and checkpoints(run) == []
    may_end.set()
    with progress:  # its end waits
        pass
    (path,) = checkpoints(run)
    assert (path / "model.safetensors").read_text() == "whole"


def test_a_checkpoint_that_cannot_be_written_stops_the_next_step_and_older_ones_stay(
    run, tiny_model_dir, monkeypatch
):
    parts = assembled(tiny_model_dir, recipe())
    Progress(step=1).save(run, parts, wait=True)

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts.policy, "saver", lambda: full)
    progress = Progress(step=2)
    progress.save(run, parts)
    with (
        pytest.raises(RunError, match="disk full .* intact .newest: step-000001"),
        progress.writing(cast(Any, None), 3),
    ):
        pass
    with progress:  # said once
        pass
    assert Progress.newest(run, pytest.fail).step == 1


def test_an_error_of_the_run_itself_is_not_hidden_by_one_of_the_writer(run, tiny_model_dir, monkeypatch):
    parts = assembled(tiny_model_dir, recipe())

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts.policy, "saver", lambda: full)
    progress = Progress(step=1)
    with pytest.raises(ValueError, match="another") as raised, progress:
        progress.save(run, parts)
        raise ValueError("another")
    assert "disk full" in raised.value.__notes__[0]


def test_a_fresh_run_has_nothing_to_restore(tiny_model_dir):
    parts = assembled(tiny_model_dir, recipe())
    Progress().restore(parts, pytest.fail)
    assert parts.updater.optimizer.steps == 0 and parts.order.state()["position"] == 0


def test_a_checkpoint_says_what_it_is(run, tiny_model_dir):
    save(run, tiny_model_dir, 1, recipe())
    about = json.loads((run.checkpoints_path / "step-000001" / "rft.json").read_text())
    assert about == {"step": 1, "weight_version": 1, "base": "packaged:tiny", "run": run.id}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_passed_over_and_named(run, tiny_model_dir):
    save(run, tiny_model_dir, 2, recipe())
    damage(run.checkpoints_path / "step-000002" / "model.safetensors")
    notes: list[str] = []
    assert Progress.newest(run, notes.append).step == 1
    assert len(notes) == 1 and notes[0].startswith("going on from step 1 instead: checkpoint ")
    assert "step-000002 is damaged: model.safetensors has changed content" in notes[0]


def test_checkpoints_that_cannot_be_trusted_are_no_reason_to_start_over(run, tiny_model_dir):
    save(run, tiny_model_dir, 1, recipe(train={"checkpoint": {"optimizer": False}}))
    with pytest.raises(RunError, match="saved without its optimizer .train.checkpoint.optimizer: false."):
        Progress.newest(run, pytest.fail)
    save(run, tiny_model_dir, 1, recipe())
    damage(run.checkpoints_path / "step-000001" / "trainer" / "memory.pt")
    with pytest.raises(RunError, match="has no checkpoint to go on from: .*memory.pt has changed content"):
        Progress.newest(run, pytest.fail)


def test_a_checkpoint_of_another_model_or_other_data_is_the_users_error(run, tiny_model_dir):
    save(run, tiny_model_dir, 1, recipe())
    progress = Progress.newest(run, pytest.fail)
    parts = assembled(tiny_model_dir, recipe(model={"source": "packaged:tiny", "adapter": {"rank": 2}}))
    with pytest.raises(RunError, match="does not fit this recipe: the optimizer state is of another model"):
        progress.restore(parts, pytest.fail)
    parts = assembled(tiny_model_dir, recipe(), tasks=TASKS[:4])
    with pytest.raises(DataError, match="tasks changed since it stopped"):
        progress.restore(parts, pytest.fail)


# --- beginning, going on, forking ---------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, tiny_model_dir) -> tuple[RunFolder, Recipe]:
    """A run with checkpoints of steps 1 to 3, and the recipe it has."""
    (tmp_path / "t.jsonl").write_text("")
    spec = recipe(data={"train": str(tmp_path / "t.jsonl")}, train={"output_dir": str(tmp_path), "steps": 9})
    run, _ = begin(spec, None, None, pytest.fail)
    run.event("heldout", step=0)
    save(run, tiny_model_dir, 3, spec.model_copy(update={"train": recipe(train=KEEP).train}))
    return run, spec


KEEP = {"checkpoint": {"keep": 3}}


def test_what_came_after_the_checkpoint_is_taken_back(saved):
    run, spec = saved
    expected = run.metrics()
    run.record(4, {"loss": 0.25})
    run.event("selective_failure", step=4)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    for name in ("step-000003", "step-000004", "heldout-000000", "heldout-000004"):
        (run.path / "rollouts" / f"{name}.parquet").touch()
    again, progress = begin(spec, run, None, pytest.fail)
    assert again is run and progress.step == 3
    assert run.metrics() == expected
    assert (run.path / "metrics.jsonl").read_text().endswith("}\n")
    assert [(event["kind"], event["step"]) for event in run.events()] == [("heldout", 0), ("resumed", 3)]
    left = sorted(path.name for path in (run.path / "rollouts").iterdir())
    assert left == ["heldout-000000.parquet", "step-000003.parquet"]


def test_a_run_killed_before_its_first_checkpoint_starts_over_in_its_folder_and_says_so(tmp_path):
    spec = recipe(data={"train": str(tmp_path / "t.jsonl")}, train={"output_dir": str(tmp_path)})
    run, _ = begin(spec, None, None, pytest.fail)
    run.record(1, {"loss": 0.5})
    (run.path / "rollouts" / "heldout-000000.parquet").touch()
    notes: list[str] = []
    again, progress = begin(spec, run, None, notes.append)
    assert (again.path, progress.step, progress.checkpoint) == (run.path, 0, None)
    assert notes == [f"run {run.id} has saved no checkpoint yet: starting over from step 0"]
    assert run.metrics() == [] and run.rollout_files("heldout") == []


def test_a_run_goes_on_longer_but_not_as_another_experiment(saved):
    run, spec = saved
    longer = spec.model_copy(update={"train": spec.train.model_copy(update={"steps": 20})})
    notes: list[str] = []
    begin(longer, run, None, notes.append)
    assert notes == ["changed: train.steps: 9 -> 20"]
    assert load_recipe(run.recipe_path).train.steps == 20  # so that the next resume knows, too
    hotter = longer.model_copy(update={"seed": 4, "rollout": RolloutSpec(temperature=2.0)})
    with pytest.raises(
        RunError, match=r"seed: 0 -> 4; rollout.temperature: 1.0 -> 2.0; for a new run .* --fork"
    ):
        begin(hotter, run, None, pytest.fail)


def test_a_fork_is_a_run_of_its_own_that_counts_on_and_knows_its_origin(saved, tiny_model_dir):
    run, spec = saved
    origin = Origin.find(f"{run.path}@2")
    slower = spec.model_copy(update={"train": spec.train.model_copy(update={"learning_rate": 1e-6})})
    notes: list[str] = []
    forked, progress = begin(slower, None, origin, notes.append)
    assert forked.path != run.path and progress.step == 2
    assert notes == [f"forked from {run.path} at step 2", "changed: train.learning_rate: unset -> 1e-06"]
    assert Origin.of(forked) == origin and Origin.of(run) is None
    parts = assembled(tiny_model_dir, slower, weights_from=progress.checkpoint)
    progress.restore(parts, pytest.fail)
    assert parts.updater.optimizer.steps == 2 and parts.updater.optimizer.learning_rate == 1e-6
    # killed before its first checkpoint, it starts over from where it was forked
    assert begin(slower, forked, None, notes.append)[1].step == 2


def test_what_does_not_fit_a_fork_starts_fresh_and_says_so(saved, tiny_model_dir):
    run, spec = saved
    progress = Progress.at(run.checkpoints_path / "step-000003", is_fork=True)
    parts = assembled(tiny_model_dir, spec, "bfloat16", progress.checkpoint, TASKS[:4])
    notes: list[str] = []
    progress.restore(parts, notes.append)
    assert [note.partition(":")[2].partition(":")[0] for note in notes] == [
        " the data begins anew",
        " the optimizer starts fresh",
    ]
    assert "23 are needed" in notes[1] or "masters" in notes[1]
    assert parts.updater.optimizer.steps == 0 and parts.order.state()["position"] == 0


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (
            {"model": {"source": "packaged:other"}},
            'of other parameters .*tiny" -> "packaged:other',
        ),
        ({"model": {"source": "packaged:tiny", "adapter": {"rank": 2}}}, "model.adapter: unset -> "),
        ({"train": {"steps": 3}}, "counts on from its checkpoint's step, 3, so train.steps must be more"),
    ],
)
def test_a_fork_that_cannot_be_is_one_clear_line(saved, update, said):
    run, spec = saved
    other = Recipe.model_validate(spec.model_dump(by_alias=True) | update)
    with pytest.raises(RunError, match=said):
        begin(other, None, Origin.find(str(run.path)), pytest.fail)
    with pytest.raises(RunError, match="no checkpoint of step 7 to fork; it has 1, 2, 3"):
        Origin.find(f"{run.path}@7")


def judge(source: str) -> Any:
    return evaluator(eval(source))


def test_a_run_remembers_its_evaluator_and_another_one_needs_consent(run, tiny_model_dir):
    spec = recipe(evaluator={"use": "exact", "require_check": "none"})
    first, other = judge("lambda text: 1.0"), judge("lambda text: 0.5")
    progress = Progress(step=1)
    progress.admit(run, spec, first, accept_change=False, note=pytest.fail)
    progress.save(run, assembled(tiny_model_dir, spec), wait=True)

    Progress.newest(run, pytest.fail).admit(run, spec, first, accept_change=False, note=pytest.fail)
    with pytest.raises(
        RunError, match="not the one this run began with .* agree with --accept-evaluator-change"
    ):
        Progress.newest(run, pytest.fail).admit(run, spec, other, accept_change=False, note=pytest.fail)
    notes: list[str] = []
    again = Progress.newest(run, pytest.fail)
    again.admit(run, spec, other, accept_change=True, note=notes.append)
    assert again.evaluator == other.fingerprint()
    assert "as agreed; rewards before and after step 1 are not comparable" in notes[0]


def test_a_recipe_that_asks_for_a_passing_check_gets_no_evaluator_without_one(run):
    strict = recipe(evaluator={"use": "exact", "require_check": "pass"})
    with pytest.raises(RunError, match="has not been checked as it is now"):
        Progress().admit(run, strict, judge("lambda text: 0.25"), accept_change=False, note=pytest.fail)
