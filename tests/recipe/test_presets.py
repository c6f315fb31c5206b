"""Presets: partial recipes with an opening comment, for every recipe."""

import pytest

from rft.recipe.load import list_recipes, load_recipe
from rft.recipe.presets import list_presets, read_preset
from rft.recipe.schema.algorithm import AlgorithmSpec

NAMES = [name for name, _ in list_presets()]
ALGORITHMS = [name for name in NAMES if "algorithm" in read_preset(name)]


def test_algorithms_are_there_by_the_names_people_ask_for():
    assert {"dapo", "dr_grpo", "gspo", "ppo", "rloo", "reinforce_pp"} <= set(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_preset_of_an_algorithm_opens_with_its_paper(name):
    assert "arXiv:" in dict(list_presets())[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_contradicts_no_shipped_recipe_of_its_kind_of_learning(name):
    kind = read_preset(name).get("algorithm", {}).get("kind", "grpo")
    for recipe, _ in list_recipes():
        if name in ALGORITHMS and load_recipe(recipe).algorithm.kind != kind:
            continue
        assert load_recipe(recipe, [f"preset={name}"]).preset is None  # spelt out, without a mistake


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_a_preset_sets_of_the_algorithm_is_what_the_run_gets(name):
    algorithm = load_recipe("quickstart", [f"preset={name}"]).algorithm
    assert algorithm == AlgorithmSpec.model_validate(read_preset(name)["algorithm"])
