"""Stages: keys laid over a recipe, resolved one by one, and all their mistakes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft.errors import RecipeError
from rft.preflight import check_recipe
from rft.recipe.load import dump_recipe, load_recipe
from rft.recipe.stages import stage_recipes

WHOLE = """\
name: chain
model: packaged:tiny
data: {train: tasks.jsonl, eval: held.jsonl}
evaluator: {use: string_check, with: {operation: eq}}
algorithm: {loss_type: dr_grpo, epsilon: 0.3}
train: {steps: 9, prompts_per_step: 4}
stages:
"""


def write(folder: Path, stages: str, whole: str = WHOLE) -> Path:
    path = folder / "chain.yaml"
    path.write_text(whole + stages)
    return path


def test_a_stage_is_keys_laid_over_the_recipe_or_a_kind_alone(tmp_path):
    stages = "  - {algorithm: sft, data: {train: demos.jsonl}, train: {steps: 3}}\n  - grpo\n"
    first, second = stage_recipes(load_recipe(write(tmp_path, stages)))
    assert (first.name, first.algorithm.kind, first.train.steps) == ("1-sft", "sft", 3)
    assert first.data.train.source == str(tmp_path / "demos.jsonl")
    assert first.train.prompts_per_step == 4 and first.data.eval is not None
    assert (second.name, second.train.steps) == ("2-grpo", 9)
    assert (second.algorithm.loss_type, second.algorithm.epsilon) == ("dr_grpo", 0.3)
    assert first.stages == second.stages == []


def test_another_kind_or_evaluator_brings_its_own_section(tmp_path):
    stages = "  - {evaluator: exact}\n  - sft\n"
    path = write(tmp_path, stages, WHOLE.replace("eq}}", "eq}, require_check: none}"))
    first, second = stage_recipes(load_recipe(path))
    assert (first.evaluator.use, first.evaluator.with_) == ("exact", {})
    assert first.evaluator.require_check == "none"  # about evaluators, not about this one
    assert second.algorithm.loss_type == "dapo"  # grpo's settings mean nothing to sft


def test_a_resolved_recipe_keeps_its_stages(tmp_path):
    recipe = load_recipe(write(tmp_path, "  - {algorithm: sft, train: {steps: 3}}\n  - grpo\n"))
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe))
    again = load_recipe(tmp_path / "dumped.yaml")
    assert again == recipe and stage_recipes(again) == stage_recipes(recipe)


def test_stages_may_be_given_on_the_command_line(tmp_path):
    recipe = load_recipe(write(tmp_path, "  - grpo\n"), ["stages=[sft, dpo]"])
    assert [stage.algorithm.kind for stage in stage_recipes(recipe)] == ["sft", "dpo"]


def test_a_key_of_one_stage_may_be_given_on_the_command_line(tmp_path):
    path = write(tmp_path, "  - {algorithm: sft, train: {steps: 3}}\n  - grpo\n")
    overrides = ["stages.0.train.steps=5", "stages.1.algorithm.epsilon=0.3", "stages.1.evaluator=includes"]
    recipe = load_recipe(path, overrides)
    sft, grpo = stage_recipes(recipe)
    assert (sft.train.steps, grpo.train.steps) == (5, 9)
    assert (grpo.algorithm.kind, grpo.algorithm.epsilon, grpo.evaluator.use) == ("grpo", 0.3, "includes")
    assert sft.evaluator == recipe.evaluator


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.0.train.stpes=5", "override stages.0.train.stpes=5, stages.0.train.stpes: unknown key"),
        ("stages.1.algorithm.epsilon=-1", "override stages.1.algorithm.epsilon=-1, stages.1.algorithm.eps"),
        ("stages.2.train.steps=5", "stages.2.train.steps: cannot be set: there are 2 stages, counted from 0"),
        ("stages.0=grpo", "stages.0: cannot be set"),
        ("stages.first.seed=3", "stages.first.seed: cannot be set"),
        ("stages.1.name.x=3", "stages.1.name"),
        ("stages.0.algorithm.kind.x=3", "stages.0.algorithm.kind is 'sft' and holds no keys"),
    ],
)
def test_a_wrong_key_of_one_stage_is_named_with_its_override(tmp_path, override, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, "  - sft\n  - grpo\n"), [override])
    assert said in str(caught.value)
    assert "1 mistake" in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("gropo", "line 8, stages.0.algorithm.kind: must be"),
        ("7", "stages.0: must be text or a mapping"),
        ("{algorithm: sft, train: {stpes: 3}}", "line 8, stages.0.train.stpes: unknown key"),
        ("{algorithm: {kind: sft, epsilon: 0.1}}", "stages.0.algorithm.epsilon: means nothing for sft"),
        ("{algorithm: {kind: dpo, beta: 0.1}}", "set algorithm.args.beta"),
        ("{algorithm: {kind: grpo, args: {x: 1}}}", "stages.0.algorithm.args: is for sft, dpo and kto"),
        ("{algorithm: kto, train: {prompts_per_step: 1}}", "must be at least 2: KTO"),
        ("{model: packaged:other}", "stages.0.model: is the same for all stages"),
        ("{name: x}", "stages.0.name: is the same for all stages"),
    ],
)
def test_a_wrong_stage_is_named_with_its_line(tmp_path, stage, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, f"  - {stage}\n"))
    assert said in str(caught.value)
    assert "1 mistake" in str(caught.value)


def test_a_key_that_trls_config_lacks_too_is_not_recommended(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, "  - {algorithm: {kind: sft, beta: 0.1}}\n"))
    assert str(caught.value).endswith("stages.0.algorithm.beta: means nothing for sft")


def test_all_mistakes_of_all_stages_come_at_once_and_the_recipes_own_but_once(tmp_path):
    whole = WHOLE.replace("steps: 9", "stpes: 9")
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, "  - gropo\n  - {train: {steps: -1}}\n", whole))
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 3
    assert "train.stpes" in lines[1] and "stages.0" in lines[2] and "stages.1.train.steps" in lines[3]


def test_other_training_data_in_a_stage_asks_for_common_tasks_to_judge_by(tmp_path):
    whole = WHOLE.replace(", eval: held.jsonl", "")
    with pytest.raises(RecipeError, match="stages.0.data.train.*set data.eval"):
        load_recipe(write(tmp_path, "  - {algorithm: sft, data: {train: demos.jsonl}}\n", whole))


def test_the_check_reads_each_stages_rows(tmp_path):
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "2+2?", "reference": "4"}\n')
    (tmp_path / "held.jsonl").write_text('{"prompt": "3+3?", "reference": "6"}\n')
    (tmp_path / "demos.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n')
    path = write(
        tmp_path,
        "  - {algorithm: sft, data: {train: demos.jsonl}}\n  - {evaluator: nobody}\n",
        WHOLE.replace("{use: string_check, with: {operation: eq}}", "exact"),
    )
    found = [str(problem) for problem in check_recipe(path).problems]
    assert len(found) == 2
    assert "line 8, stages.0.data.train" in found[0] and "no completion" in found[0]
    assert "line 9, stages.1.evaluator" in found[1]
