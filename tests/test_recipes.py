"""Every shipped recipe loads, and takes two steps on the tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", NAMES)
def test_it_takes_two_steps_on_the_tiny_model(name, tmp_path):
    overrides = ["train.steps=2", "train.prompts_per_step=2", "eval.tasks=4", "rollout.max_new_tokens=8"]
    done = subprocess.run(
        [
            *(
                str(Path(sys.executable).with_name("rft")),
                "train",
                name,
                "model.source=packaged:tiny",
                *overrides,
            ),
            *(f"train.output_dir={tmp_path}", "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
