"""Every shipped recipe loads, and takes two steps on the tiny model."""

from __future__ import annotations

import json

import pytest

from rft.cli import main
from rft.preflight import check_recipe
from rft.recipe.load import dump_recipe, list_recipes, load_recipe

NAMES = [name for name, _ in list_recipes()]


def test_the_quickstart_is_shipped():
    assert "quickstart" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_has_no_mistakes_and_survives_a_round_trip(name, tmp_path):
    assert check_recipe(name).ok
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_recipe(load_recipe(name)))
    assert load_recipe(resolved) == load_recipe(name)


@pytest.mark.engine
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", NAMES)
def test_it_takes_two_steps_on_the_tiny_model(name, tmp_path, capfd):
    overrides = ["train.steps=2", "train.prompts_per_step=2", "eval.tasks=4", "rollout.max_new_tokens=8"]
    places = ["model.source=packaged:tiny", f"train.output_dir={tmp_path}"]
    with pytest.raises(SystemExit) as ended:
        main(["train", name, *places, *overrides, "--json"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    assert json.loads(out)["steps"] == 2
