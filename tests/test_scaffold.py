"""`rft init`: what it writes works as it is, and nothing of the user's is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rft.data.source import load_tasks
from rft.errors import UserError
from rft.examine import examine
from rft.recipe.load import load_recipe
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Use
from rft.scaffold import init, new_evaluator


@pytest.fixture
def folder(tmp_path):
    init(tmp_path / "my-task", "my-task")
    return tmp_path / "my-task"


def test_it_writes_a_recipe_an_evaluator_ten_tasks_a_test_and_a_readme(tmp_path):
    written = init(tmp_path / "deep" / "my-task", "my-task")
    names = ["README.md", "evaluator.py", "recipe.yaml", "tasks.jsonl", "test_evaluator.py"]
    assert [path.name for path in written] == names
    assert len((tmp_path / "deep" / "my-task" / "tasks.jsonl").read_text().splitlines()) == 10
    assert not any("{{" in path.read_text() for path in written)


def test_the_recipe_loads_and_its_evaluator_and_data_belong_together(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    evaluator = resolve_evaluator(recipe.evaluator, folder)
    tasks = load_tasks(recipe.data.train, seed=0, requires=evaluator.requires)
    assert recipe.name == "my-task"
    assert len(tasks) == 10
    assert len(tasks) - recipe.eval.tasks >= recipe.train.prompts_per_step


def test_a_name_that_yaml_would_read_as_something_else_stays_a_name(tmp_path):
    init(tmp_path / "t", "null")
    assert load_recipe(tmp_path / "t" / "recipe.yaml").name == "null"


def test_the_generated_test_passes_as_it_is(folder):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTEST_ADDOPTS": ""}
    )
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def test_the_generated_test_fails_when_the_evaluator_is_wrong(folder):
    path = folder / "evaluator.py"
    path.write_text(path.read_text().replace("return Score(0.0", "return Score(1.0"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 1


def test_a_file_in_the_way_is_left_alone_and_nothing_is_written(tmp_path):
    mine = tmp_path / "evaluator.py"
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"already has evaluator\.py"):
        init(tmp_path, "my-task")
    assert mine.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [mine]


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert len(init(tmp_path, "my-task")) == 5


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x", "a: b", "7", "null\n"])
def test_a_name_that_would_break_the_recipe_or_its_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="name starts with a letter"):
        init(tmp_path / "task", name)
    assert not (tmp_path / "task").exists()


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "task").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        init(tmp_path / "task", "task")


def test_a_new_evaluator_passes_its_own_test_and_its_own_check(tmp_path, monkeypatch):
    monkeypatch.setenv("RFT_CHECKS", str(tmp_path / "checks"))
    assert [path.name for path in new_evaluator(tmp_path, "polite")] == ["polite.py", "test_polite.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "11 passed" in done.stdout, done.stdout
    polite = resolve_evaluator(Use(use="./polite.py:polite"), tmp_path)
    report = examine(polite)
    assert report.outcome == "pass", report.to_markdown()


@pytest.mark.parametrize("name", ["a-b", "1st", "class", "json", ""])
def test_an_evaluators_name_must_be_a_free_python_name(tmp_path, name):
    with pytest.raises(UserError, match="a Python name that is not taken"):
        new_evaluator(tmp_path, name)


def test_a_new_evaluator_overwrites_nothing(tmp_path):
    (tmp_path / "polite.py").write_text("mine")
    with pytest.raises(UserError, match="already has polite.py"):
        new_evaluator(tmp_path, "polite")
