"""The check finds mistakes in every part of a recipe at once, and loads nothing heavy."""

import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from rft import evaluator
from rft.check.findings import Finding, StageResult
from rft.check.report import Report, store_report
from rft.errors import RecipeError, RunError
from rft.preflight import check_recipe, require_check
from rft.runs.folder import RunFolder
from rft.runs.tracker_kinds import KINDS

GRADER = """
from rft import evaluator

@evaluator
def near(text, reference, digits, tolerance=0.1):
    return 1.0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "grader.py").write_text(GRADER)
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "1+1", "reference": "2", "digits": 1}\n')
    (tmp_path / "recipe.yaml").write_text(
        "model: owner/name\ndata: {train: tasks.jsonl}\nevaluator: ./grader.py:near\n"
    )
    return tmp_path


def test_a_good_recipe_passes_and_says_what_only_the_run_will_show(folder):
    report = check_recipe(folder / "recipe.yaml")
    assert report.ok and report.recipe is not None
    assert report.notes == ("model.source: owner/name is fetched when the run starts, unless it is cached",)


def test_mistakes_of_all_parts_come_out_together(folder):
    (folder / "held.csv").write_text("question,answer\n1+1,2\n")
    report = check_recipe(
        folder / "recipe.yaml",
        [
            "train.stpes=5",
            "evaluator.with.tolerence=1",
            "environment=singel_turn",
            f"data.train={folder / 'task.jsonl'}",
            f"data.eval={folder / 'held.csv'}",
            "model=./nowhere",
            "model.chat_template=./no.jinja",
        ],
    )
    assert not report.ok and report.recipe is None
    said = {problem.path: str(problem) for problem in report.problems}
    assert said.keys() == {
        "train.stpes",
        "evaluator.with.tolerence",
        "environment.use",
        "data.train",
        "data.eval",
        "model.source",
        "model.chat_template",
    }
    assert "override evaluator.with.tolerence=1" in said["evaluator.with.tolerence"]
    assert "did you mean single_turn?" in said["environment.use"]
    assert "did you mean tasks.jsonl?" in said["data.train"]
    assert f"{folder / 'held.csv'}:2: no prompt" in said["data.eval"]


def test_a_tracker_that_is_not_installed_is_told_with_how_to_install_it(folder, monkeypatch):
    monkeypatch.setattr(KINDS["mlflow"], "package", "no_such_tracker")
    report = check_recipe(folder / "recipe.yaml", ["tracking=[tensorboard, mlflow]"])
    (problem,) = report.problems
    assert (problem.path, problem.got) == ("tracking.to", "mlflow")
    assert str(problem).endswith("no_such_tracker is not installed: pip install mlflow (got mlflow)"), problem


def test_the_data_must_have_what_the_evaluator_reads(folder):
    (folder / "tasks.jsonl").write_text('{"prompt": "a", "reference": "b"}\n')
    (problem,) = check_recipe(folder / "recipe.yaml").problems
    assert problem.path == "data.train" and problem.line == 2
    assert (
        "'digits' in 1 of 1 rows" in problem.message
        and "tasks.jsonl:1, which has reference" in problem.message
    )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_of_tables_are_checked_too(folder, ending):
    file = folder / f"table.{ending}"
    if ending == "csv":
        file.write_text("prompt,reference\na,b\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a"], "reference": ["b"]}), file)
    (problem,) = check_recipe(folder / "recipe.yaml", [f"data.train={file}"]).problems
    assert "'digits' in 1 of 1 rows" in problem.message
    assert check_recipe(folder / "recipe.yaml", [f"data.train={file}", "evaluator.with.digits=3"]).ok


def test_only_the_first_rows_of_a_file_are_read(folder):
    rows = [json.dumps({"prompt": f"{n}", "reference": "b", "digits": 1}) for n in range(30)]
    (folder / "tasks.jsonl").write_text("\n".join([*rows, "broken"]))
    assert check_recipe(folder / "recipe.yaml").ok


def test_sources_that_make_their_rows_are_resolved_and_not_run(folder):
    (folder / "rows.py").write_text("def make():\n    raise RuntimeError\n")
    report = check_recipe(folder / "recipe.yaml", [f"data.train={folder}/rows.py:make"])
    assert report.ok and f"data.train: the rows of {folder}/rows.py:make are read" in report.notes[0]
    (problem,) = check_recipe(folder / "recipe.yaml", [f"data.train={folder}/rows.py:mak"]).problems
    assert "did you mean 'make'?" in problem.message


def test_a_missing_recipe_has_nothing_to_report_on(folder):
    with pytest.raises(RecipeError, match="no such file"):
        check_recipe(folder / "recip.yaml")


def test_the_check_loads_nothing_heavy(folder):
    code = (
        "import sys; from rft.preflight import check_recipe; check_recipe('recipe.yaml');"
        "print([name for name in ('torch', 'datasets', 'pandas', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """Keeps reports of checks in a folder of the test; stores one for an evaluator."""
    monkeypatch.setenv("RFT_CHECKS", str(tmp_path / "checks"))

    def store(evaluator, *levels):
        stages = [StageResult("golden", [Finding(level, "seen", "do this") for level in levels])]
        store_report(Report(evaluator.name, evaluator.fingerprint(), stages, complete=True))

    return store


@evaluator
def judged(text):
    return 1.0


def test_an_unchecked_evaluator_is_warned_about_or_refused_as_the_recipe_says(checked, tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    notes = []
    require_check(judged, "none", run, pytest.fail)
    require_check(judged, "warn", run, notes.append)
    assert "evaluator judged has not been checked as it is now" in notes[0]
    assert notes[0].endswith(f"rft evaluator check {run.recipe_path}")
    with pytest.raises(RunError, match="evaluator.require_check is pass"):
        require_check(judged, "pass", run, pytest.fail)


def test_a_failed_check_does_not_vouch_and_a_passed_one_with_warnings_does(checked, tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    checked(judged, "fail")
    with pytest.raises(RunError, match=r"failed its check of .* \(golden\)"):
        require_check(judged, "pass", run, pytest.fail)
    checked(judged, "warn")
    require_check(judged, "pass", run, pytest.fail)
    assert "Check of judged: warn" in (run.path / "check.md").read_text()


def test_a_run_brings_its_report_along(checked, tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path, "sort", "")
    checked(judged, "note")
    require_check(judged, "pass", run, pytest.fail)
    monkeypatch.setenv("RFT_CHECKS", str(tmp_path / "another machine"))
    require_check(judged, "pass", run, pytest.fail)
    (run.path / "check.json").unlink()
    with pytest.raises(RunError, match="has not been checked"):
        require_check(judged, "pass", run, pytest.fail)


def test_a_recipe_that_asks_for_a_passed_check_is_told_early_when_there_is_none(checked, folder):
    report = check_recipe(folder / "recipe.yaml", ["evaluator.require_check=pass"])
    (problem,) = report.problems
    assert problem.path == "evaluator.require_check" and "has not been checked" in problem.message
