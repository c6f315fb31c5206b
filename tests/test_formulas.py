"""Maths that a recipe brings along: looked at early, told in one line, bound with its arguments."""

from __future__ import annotations

import sys

import pytest
import torch

from rft.errors import RecipeError, ResolveError
from rft.evaluators import Exact, Length
from rft.formulas import credit_of, loss_of, wrong_formulas
from rft.learn.credit import gdpo_credit
from rft.preflight import check_recipe
from rft.recipe.load import dump_recipe, load_recipe
from rft.recipe.schema import AlgorithmSpec
from rft.scoring.compose import NormalizeThenSum, Part, Weighted

MATHS = """
def flat(batch, size=1.0):
    return size * batch.rewards_S

def loss(inputs, config, sharp=1.0):
    return inputs.policy_logprobs_N

class Other:
    pass

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "maths.py").write_text(MATHS)
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "1+1", "reference": "2"}\n')
    (tmp_path / "recipe.yaml").write_text(
        "model: owner/name\ndata: {train: tasks.jsonl}\nevaluator: exact\n"
        "algorithm: {advantage: ./maths.py:flat, advantage_args: {size: 3.0}, loss_type: ./maths.py:loss}\n"
    )
    return tmp_path


def test_a_function_beside_the_recipe_is_found_from_any_folder(folder):
    assert check_recipe(folder / "recipe.yaml").ok
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.algorithm.advantage == f"{folder}/maths.py:flat"
    resolved = folder / "elsewhere.yaml"
    resolved.write_text(dump_recipe(recipe))
    assert load_recipe(resolved) == recipe


def test_credit_comes_with_its_arguments(folder):
    algorithm = load_recipe(folder / "recipe.yaml").algorithm

    class Batch:
        rewards_S = torch.tensor([1.0, 2.0])

    assert credit_of(algorithm, Exact())(Batch).tolist() == [3.0, 6.0]
    assert loss_of(algorithm).__name__ == "loss"
    assert credit_of(AlgorithmSpec(), Exact()) is None and loss_of(AlgorithmSpec()) is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "algorithm.advantage=./maths.py:flatt",
            "has no 'flatt'; did you mean 'flat'?",
        ),
        ("algorithm.advantage=./math.py:flat", "did you mean 'maths.py'?"),
        ("algorithm.advantage=no_such:flat", "no module 'no_such'"),
        ("algorithm.advantage=./maths.py:number", "cannot be called"),
        ("algorithm.advantage=flat", "or your own by 'module:function'"),
        (
            "algorithm.advantage_args={sise: 2}",
            "is called with (batch, sise=...): got an",
        ),
        (
            "algorithm.advantage=./maths.py:loss",
            "missing a required argument: 'config'",
        ),
        (
            "algorithm.loss_type=./maths.py:flat2",
            "has no 'flat2'; did you mean 'flat'?",
        ),
        (
            "algorithm.loss_type=./maths.py:Other",
            "called with (inputs, config): too many",
        ),
    ],
)
def test_a_wrong_function_is_one_clear_line_of_the_check(folder, monkeypatch, override, said):
    monkeypatch.chdir(folder)
    overrides = [override] if "args" in override else ["algorithm.advantage_args={}", override]
    (problem,) = check_recipe(folder / "recipe.yaml", overrides).problems
    assert problem.path == override.partition("=")[0].removesuffix("_args")
    assert said in problem.message and "\n" not in str(problem)


def test_a_run_refuses_what_the_check_would(folder):
    with pytest.raises(RecipeError, match="has no 'nothing'"):
        credit_of(AlgorithmSpec(advantage=f"{folder}/maths.py:nothing"), Exact())
    with pytest.raises(ResolveError, match="has no 'nothing'"):
        loss_of(AlgorithmSpec(loss_type=f"{folder}/maths.py:nothing"))


def test_gdpo_takes_the_weights_of_a_composed_evaluator():
    composed = Weighted(right=Exact(), brief=Part(Length(max=9), weight=-0.5))
    credit = credit_of(AlgorithmSpec(advantage="gdpo"), composed)
    assert credit.func is gdpo_credit and credit.keywords == {"weights": {"right": 1.0, "brief": -0.5}}
    assert credit_of(AlgorithmSpec(advantage="gdpo"), Exact()) is None


def test_max_rl_is_not_for_evaluators_that_may_give_less_than_nothing():
    algorithm = AlgorithmSpec(advantage="max_rl")
    (problem,) = wrong_formulas(algorithm, NormalizeThenSum(right=Exact()))
    assert (
        "never negative, and NormalizeThenSum may give -inf" in problem.message or "-inf" in problem.message
    )
    assert list(wrong_formulas(algorithm, Exact())) == []
