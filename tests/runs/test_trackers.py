"""Trackers get every step once, from the run's folder, and are in nobody's way."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracked import SECRET, begin, groups, live, recipe, two_lives

from rft.errors import UserError
from rft.runs.folder import RunFolder
from rft.runs.tracker_kinds import KINDS, About, Tracker
from rft.runs.tracker_views import configuration, rollout_table
from rft.runs.trackers import Trackers

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".side-env" / "bin" / "python"


@pytest.fixture(autouse=True)
def secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_TOKEN", SECRET)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", os.devnull)


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# --- the real ones, read back from their files ---------------------------------------------------------


def test_tensorboard_has_every_step_once_over_two_lives(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = two_lives(tmp_path, "tensorboard")
    events = EventAccumulator(str(run.path / "trackers/tensorboard/rft"))
    events.Reload()
    rewards = [(event.step, round(event.value, 6)) for event in events.Scalars("reward/mean")]
    assert rewards == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("heldout/mean")] == [(0, 0.1)]
    assert "grad_norm" not in events.Tags()["scalars"]
    tables = events.Tensors("rollouts/text_summary")
    assert [table.step for table in tables] == [1, 2, 3, 4]
    text = tables[1].tensor_proto.string_val[0].decode()
    assert "| user: Sort: 2 \\| 1 | answer 0 of step 2 *** | 0.5 | half |" in text
    assert "| None | slow |" in text
    kept = everything_in(run.path / "trackers")
    assert b"packaged:tiny" in kept and SECRET.encode() not in kept


def test_wandb_writes_offline_where_there_is_no_key_and_goes_on_with_its_run(tmp_path):
    run = two_lives(tmp_path, "wandb")
    files = sorted((run.path / "trackers/wandb/wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and all(run.id in path.name for path in files)
    rows, configs = [], []
    for path in files:
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "history":
                # a key is plain, or nested where wandb takes dots or slashes for levels
                items = {
                    item.key or "/".join(item.nested_key): item.value_json for item in record.history.item
                }
                rows.append((record.history.step.num, {key: json.loads(text) for key, text in items.items()}))
            elif record.WhichOneof("record_type") == "config":
                configs += [item.key or ".".join(item.nested_key) for item in record.config.update]
    assert [(step, row.get("reward/mean")) for step, row in rows] == [
        (0, None),
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.4),
    ]
    assert rows[0][1]["heldout/mean"] == 0.1 and rows[1][1]["fail/timeout"] == 1.0
    assert "train.learning_rate" in configs and "evaluator.with.api_key" in configs
    table = json.loads((files[0].parent / "files" / rows[1][1]["rollouts/path"]).read_text())
    assert table["columns"] == ["prompt", "answer", "reward", "reason"]
    assert table["data"][0] == ["user: Sort: 2 | 1", "answer 0 of step 1 ***", 0.5, "half"]
    assert SECRET.encode() not in everything_in(run.path / "trackers")


def wandb_records(path: Path) -> list[Any]:
    """The records of wandb's own file, once its process has written the last, which follows `finish`."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(600):
        records = [Record.FromString(data) for data in leveldb_log(path.read_bytes()[7:], 7)]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end")


def leveldb_log(data: bytes, before: int) -> Iterator[bytes]:
    """Records of LevelDB's log format: 32 KiB blocks of pieces, each checksum, size, kind and data."""
    at, record = 0, b""
    while at + 7 <= len(data):
        left = 32768 - (at + before) % 32768
        if left < 7:  # no piece begins in the rest of a block
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


@pytest.mark.side_env
@pytest.mark.skipif(not PYTHON.exists(), reason="no .side-env; scripts/side-env makes it in a minute")
@pytest.mark.parametrize("tracker", ["trackio", "mlflow"])
def test_trackers_that_the_locked_stack_cannot_have_write_too(tmp_path, tracker):
    script, locked = Path(__file__).with_name("against_trackers.py"), sysconfig.get_path("purelib")
    done = subprocess.run([PYTHON, script, tracker, tmp_path, locked], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


# --- a made-up one, which fails and lags at will -------------------------------------------------------


class MadeUp(Tracker):
    package = "json"
    logged: list[tuple[int, dict[str, float], int]]
    started: list[About]
    broken = 0
    gate: threading.Event | None = None

    def start(self, about: About) -> str:
        self.started.append(about)
        self.tracker = self
        return "their-id"

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.logged.append((-1, values, 0))

    def finish(self) -> None:
        pass

    def log(self, step, values, table):
        if self.gate is not None:
            self.gate.wait(20)
        if MadeUp.broken:
            MadeUp.broken -= 1
            raise ConnectionError(f"no route to https://me:{SECRET}@host/?key=1")
        self.logged.append((step, dict(values), len(table)))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> type[MadeUp]:
    monkeypatch.setitem(KINDS, "wandb", MadeUp)
    MadeUp.logged, MadeUp.started, MadeUp.broken, MadeUp.gate = [], [], 0, None
    return MadeUp


def test_a_resumed_run_goes_on_with_the_trackers_own_run_and_configures_it_once(tmp_path, made_up):
    two_lives(tmp_path, "wandb")
    assert [step for step, _, _ in made_up.logged] == [-1, 0, 1, 2, 3, 4]
    assert [about.known_as for about in made_up.started] == [None, "their-id"]
    assert made_up.logged[2][1] == {"reward/mean": 0.1, "fail/timeout": 1.0}
    assert made_up.logged[2][2] == 3


def test_one_that_fails_is_told_of_once_without_secrets_and_gets_what_it_missed(tmp_path, made_up):
    told: list[str] = []
    run = begin(tmp_path)
    made_up.broken = 2
    live(run, "wandb", (1,), told.append)
    live(run, "wandb", (2, 3), told.append)
    steps = [step for step, _, _ in made_up.logged]
    assert steps[0] == -1 and steps[-1] == 3 and sorted(set(steps)) == sorted(steps)
    assert {1, 2, 3} <= set(steps)
    assert told and all("the run goes on" in line for line in told)
    assert SECRET not in "".join(told) and "ConnectionError" in told[0]


def test_one_that_hangs_holds_up_neither_the_step_nor_for_long_the_end(tmp_path, made_up, monkeypatch):
    monkeypatch.setattr("rft.runs.trackers._PATIENCE_S", 0.2)
    told: list[str] = []
    made_up.gate = threading.Event()
    run = begin(tmp_path)
    live(run, "wandb", (1, 2, 3), told.append)
    assert told == ["tracking: wandb is still writing after 0 s; left behind"]
    assert [step for step, _, _ in made_up.logged] == [-1]
    made_up.gate.set()
    for thread in threading.enumerate():
        if thread.name == "rft-wandb":
            thread.join()


def test_a_step_is_marked_before_it_is_handed_on_so_that_a_kill_shows_none_twice(
    tmp_path, made_up, monkeypatch
):
    run = begin(tmp_path)
    marks = []

    def log(self, step, values, table):
        marks.append((step, json.loads((run.path / "trackers/wandb.json").read_text())["step"]))

    monkeypatch.setattr(MadeUp, "log", log)
    live(run, "wandb", (1, 2), lambda text: None)
    assert marks == [(0, 0), (1, 1), (2, 2)]


def test_one_that_is_not_installed_is_one_line_before_anything_loads(tmp_path, made_up, monkeypatch):
    monkeypatch.setattr(MadeUp, "package", "no_such_tracker")
    run = RunFolder.create(tmp_path, "sort", "name: sort\n")
    with pytest.raises(UserError, match="no_such_tracker cannot be imported") as error:
        Trackers(recipe("wandb"), run, print).__enter__()
    assert "pip install 'rft-loop[trackers]'" in str(error.value) and "\n" not in str(error.value)


def test_without_trackers_there_is_neither_a_thread_nor_a_file(tmp_path):
    run = begin(tmp_path)
    before = threading.active_count()
    chosen = recipe("wandb").model_copy(update={"tracking": type(recipe("wandb").tracking)()})
    with Trackers(chosen, run, print) as trackers:
        trackers.wake()
        assert threading.active_count() == before
    assert not (run.path / "trackers").exists()


def test_starting_costs_no_import_of_any_tracker():
    code = "import sys, rft.runs.trackers; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"wandb", "tensorboard", "accelerate", "torch"} & set(loaded)


# --- what they are given ------------------------------------------------------------------------------------


def test_the_configuration_is_flat_and_names_secrets_only(tmp_path):
    flat = configuration(recipe("tensorboard"))
    assert flat["evaluator.with.api_key"] == "***" and flat["evaluator.with.url"] == "env:GRADER"
    assert flat["rollout.max_new_tokens"] == 256 or isinstance(flat["rollout.max_new_tokens"], int)
    assert flat["tracking.to"] == '["tensorboard"]' and flat["train.learning_rate"] == "null"
    assert all(isinstance(value, (str, int, float, bool)) for value in flat.values())


def test_rollouts_are_spread_over_the_groups_of_a_step(tmp_path):
    run = begin(tmp_path)
    run.write_rollouts(5, groups(5) * 4)
    assert [row[1].split()[1] for row in rollout_table(run, 5, 4)] == ["0", "0", "0", "0"]
    assert [row[1].split()[1] for row in rollout_table(run, 5, 6)] == ["0", "2", "1", "0", "2", "1"]
    assert len(rollout_table(run, 5, 99)) == 12
    assert rollout_table(run, 5, 0) == rollout_table(run, 6, 4) == []
