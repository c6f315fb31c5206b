"""What a recipe's parts are given when they are put together: here, the engine's base weights for a judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rft.assemble import assemble
from rft.errors import UserError
from rft.recipe.load import load_recipe
from rft.runs.folder import RunFolder
from rft.runs.rollouts import read_rollouts
from rft.runs.view import View
from rft.train import train

RECIPE = """\
name: judged
seed: 3
model: {{source: {source}, dtype: float32, adapter: {{rank: 4}}}}
data: {{train: tasks.jsonl}}
evaluator:
  use: weighted
  with:
    good: {{use: judge, with: {{engine: base, criteria: {{good: Good.}}, max_tokens: 1500}}}}
    brief: {{use: length, with: {{max: 20}}}}
rollout: {{group_size: 4, max_new_tokens: 12}}
train: {{steps: 1, prompts_per_step: 2, learning_rate: 1e-3}}
eval: {{tasks: 2, every: 1}}
"""


def write(folder: Path, source: str = "packaged:tiny") -> str:
    rows = [{"prompt": f"Say something about {number}."} for number in range(12)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(source=source))
    return str(folder / "recipe.yaml")


def test_full_fine_tuning_leaves_no_weights_to_judge_with_and_says_so_at_once(tmp_path):
    recipe = load_recipe(write(tmp_path), ["model.adapter=null", "data.train.source=nowhere.jsonl"])
    with (
        pytest.raises(UserError, match=r"train an adapter \(model\.adapter\), or give the judge url"),
        assemble(recipe, View(1, quiet=True), RunFolder.create(tmp_path, "judged", "")),
    ):
        pass


@pytest.mark.engine
def test_an_adapter_trains_on_the_verdicts_of_its_own_base_weights(tmp_path, monkeypatch):
    from rft.models.tiny import build_tiny

    build_tiny(tmp_path / "long", max_position_embeddings=8192)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(write(tmp_path, source="./long"))
    train(recipe, view=View(recipe.train.steps, quiet=True))
    rows = read_rollouts(RunFolder.open("judged").rollout_files()[0])
    assert len(rows) == 8
    for row in rows:
        assert row["status"] == "ok", row
