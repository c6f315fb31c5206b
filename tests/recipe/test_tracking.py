"""Trackers are named alone, in a list, or in a section with the rest."""

from __future__ import annotations

import pytest

from rft.errors import RecipeError
from rft.recipe.load import load_recipe


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: owner/name\ndata: {train: tasks.jsonl}\nevaluator: exact\n")
    return path


def test_none_is_reported_to_unless_asked(path):
    assert load_recipe(path).tracking.to == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("wandb", ["wandb"]),
        ("[wandb, tensorboard]", ["wandb", "tensorboard"]),
        ("{to: mlflow}", ["mlflow"]),
        ("{to: [trackio]}", ["trackio"]),
    ],
)
def test_names_are_short_for_the_section(path, written, meant):
    path.write_text(path.read_text() + f"tracking: {written}\n")
    assert load_recipe(path).tracking.to == meant
    assert load_recipe(path, ["tracking=tensorboard"]).tracking.to == ["tensorboard"]


@pytest.mark.parametrize("written", ["wandbb", "[tensorboard, wandbb]"])
def test_a_name_that_no_tracker_has(path, written):
    with pytest.raises(RecipeError, match="wandb") as error:
        load_recipe(path, [f"tracking={written}"])
    assert "tracking.to" in str(error.value) and "wandbb" in str(error.value)
