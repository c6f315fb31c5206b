"""What training asks of a check, from the page down, and the runs that controls make."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import rft.evaluate
import rft.train
from rft.cli import main
from rft.errors import RunError
from rft.gather import train_controls
from rft.recipe.load import load_recipe
from rft.runs.view import View


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RFT_CHECKS", str(tmp_path / "checks"))
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "2+2?", "reference": "4"}\n' * 8)
    (tmp_path / "mine.yaml").write_text(
        "model: ./no-such-model\ndata: {train: tasks.jsonl}\n"
        "evaluator: {use: exact, require_check: pass}\nserve: {port: 0}\n"
    )
    return load_recipe("mine.yaml")


def test_training_refuses_an_unchecked_evaluator_before_it_looks_for_the_model(recipe):
    with pytest.raises(RunError, match="evaluator exact has not been checked as it is now"):
        rft.train.train(recipe, view=View(1, quiet=True))


def test_after_a_check_that_passed_it_goes_on_to_the_model(recipe):
    with pytest.raises(SystemExit) as left:
        main(["evaluator", "check", "exact"])
    assert left.value.code == 0
    with pytest.raises(Exception, match="distinct prompts"):  # the next thing that is wrong with this recipe
        rft.train.train(recipe, view=View(1, quiet=True))


def test_controls_train_the_same_recipe_with_other_evaluators_and_are_judged_by_its_own(
    recipe, tmp_path, monkeypatch
):
    trained, judged = [], []

    def train(spec, view):
        trained.append(spec)
        return SimpleNamespace(run=f"run of {spec.name}")

    def evaluate(spec, models, view):
        judged.append((spec.evaluator.use, *models))
        return SimpleNamespace(results=[SimpleNamespace(means={"t": 0.5})])

    monkeypatch.setattr(rft.train, "train", train)
    monkeypatch.setattr(rft.evaluate, "evaluate", evaluate)
    found = train_controls(recipe, 3, View(1, quiet=True), tmp_path)
    assert [spec.evaluator.use for spec in trained] == ["exact", "random", "constant"]
    assert {(spec.train.steps, spec.serve, spec.evaluator.require_check) for spec in trained} == {
        (3, None, "none")
    }
    assert judged == [("exact", f"run of {name}") for name in ("evaluator", "random", "constant")]
    assert found == dict.fromkeys(("evaluator", "random", "constant"), {"t": 0.5})
