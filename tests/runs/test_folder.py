import json
import os
import re
import subprocess
import sys
import time

import pytest

from rft.errors import RunError
from rft.runs import folder as folder_module
from rft.runs.folder import RunFolder, Status, list_runs


def test_a_new_run_holds_its_recipe_and_is_running(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "name: sort\n")
    assert run.path.parent == tmp_path / "sort"
    assert re.fullmatch(r"\d{8}-\d{6}-\d{3}[a-z2-9]{2}", run.id)
    assert run.recipe_path.read_text() == "name: sort\n"
    assert run.log_path.parent.is_dir()
    assert run.status.word == "running"


def test_a_run_is_found_by_path_id_and_name_with_the_newest_of_a_name(tmp_path, monkeypatch):
    ids = iter(["20260101-000000-aaaa", "20260102-000000-aaaa"])

    def next_folder(parent):
        path = parent / next(ids)
        path.mkdir()
        return path

    monkeypatch.setattr(folder_module, "_new_folder", next_folder)
    old = RunFolder.create(tmp_path, "sort", "")
    new = RunFolder.create(tmp_path, "sort", "")
    assert RunFolder.open(old.path).path == old.path
    assert RunFolder.open(old.id, tmp_path).path == old.path
    assert RunFolder.open(f"sort/{old.id}", tmp_path).path == old.path
    assert RunFolder.open("sort", tmp_path).path == new.path
    assert RunFolder.open(tmp_path / "sort").path == new.path
    assert [run.id for run in list_runs(tmp_path)] == [old.id, new.id]


def test_an_unknown_run_names_the_nearest(tmp_path):
    RunFolder.create(tmp_path, "quickstart", "")
    with pytest.raises(RunError, match="did you mean 'quickstart'"):
        RunFolder.open("quickstrat", tmp_path)


def test_no_runs_at_all_says_how_to_make_one(tmp_path):
    with pytest.raises(RunError, match="holds no runs; `rft train RECIPE` makes one"):
        RunFolder.open("x", tmp_path / "runs")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(RunError, match="cannot be"):
        RunFolder.create(tmp_path / "runs", name, "")
    assert not (tmp_path / "runs").exists()


def test_an_output_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "runs").write_text("a file is in the way")
    with pytest.raises(RunError, match=r"train\.output_dir"):
        RunFolder.create(tmp_path / "runs", "sort", "")


def test_a_step_run_again_after_a_resume_counts_once(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    for step, reward in [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25)]:
        run.record(step, {"reward/mean": reward})
    assert RunFolder.open(run.path).metrics() == [
        {"step": 1, "reward/mean": 0.1},
        {"step": 2, "reward/mean": 0.25},
        {"step": 3, "reward/mean": 0.3},
    ]


def test_events_keep_their_order_and_details(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    run.event("binding", mode="shared")
    run.event("checkpoint", step=3)
    first, second = run.events()
    assert (first["kind"], first["mode"]) == ("binding", "shared")
    assert (second["kind"], second["step"]) == ("checkpoint", 3)
    assert first["time"] <= second["time"]


def test_a_finished_run_says_so_whatever_became_of_its_process(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    run.set_status("finished", step=5, steps=5)
    assert (run.status.word, run.status.step) == ("finished", 5)


def test_a_run_whose_process_was_killed_reads_as_died(tmp_path):
    code = (
        "import sys, time; from rft.runs.folder import RunFolder;"
        "print(RunFolder.create(sys.argv[1], 'sort', '').path, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    run = RunFolder.open(process.stdout.readline().strip())
    assert run.status.word == "running"
    process.kill()
    process.wait()
    assert run.status.word == "died"


def test_a_recycled_process_id_is_not_taken_for_the_run(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    path = run.path / "status.json"
    status = json.loads(path.read_text())
    assert status["pid"] == os.getpid()
    path.write_text(json.dumps({**status, "pid_start": "12345"}))
    assert run.status.word == "died"


def test_a_run_of_another_machine_is_taken_at_its_word():
    assert Status("running", pid=1, host="elsewhere.example").word == "running"


def test_a_report_is_written_beside_the_recipe(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    run.write_report("# before and after\n")
    assert (run.path / "report.md").read_text() == "# before and after\n"


def test_a_damaged_status_is_a_user_error(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    (run.path / "status.json").write_text("{")
    with pytest.raises(RunError, match="status.json cannot be read"):
        _ = run.status


def test_ids_sort_by_age(tmp_path):
    first = RunFolder.create(tmp_path, "sort", "")
    time.sleep(0.01)  # ids tell milliseconds apart
    second = RunFolder.create(tmp_path, "sort", "")
    assert first.id < second.id
