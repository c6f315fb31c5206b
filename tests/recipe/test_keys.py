import pytest

from rft.recipe.keys import OTHER_WORDS, describe_keys, nearest_key


def test_every_key_has_a_line_of_help():
    assert [key.path for key in describe_keys() if not key.doc] == []


def test_a_key_shows_its_type_default_and_meaning():
    by_path = {key.path: key for key in describe_keys()}
    assert by_path["train.steps"].type == "whole number > 0"
    assert by_path["train.steps"].default == "100"
    assert by_path["model.source"].default == "required"
    assert by_path["model.adapter"].type == "section or null"
    assert by_path["model"].type == "section or its source"
    assert by_path["environment"].default == "single_turn"
    assert by_path["model.adapter.targets"].type == "all-linear or list of text"
    assert by_path["algorithm.epsilon_high"].type == "number >= 0 or null"
    assert by_path["train.optimizer.betas"].default == "[0.9, 0.999]"
    assert by_path["engine.gpu_memory_utilization"].type == "number > 0 and <= 1"
    assert by_path["evaluator.with"].type == "mapping"


def test_a_prefix_selects_whole_names_only():
    assert {key.path.split(".")[0] for key in describe_keys("eval")} == {"eval"}
    assert [key.path for key in describe_keys("train.checkpoint.keep")] == ["train.checkpoint.keep"]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("steps", "train.steps"),
        ("train.stpes", "train.steps"),
        ("modle", "model"),
        ("data.trian", "data.train"),
        ("train.rank", "model.adapter.rank"),
        ("train.every", "train.checkpoint.every"),
        ("model.lora_rank", "model.adapter.rank"),
        ("learning_rat", "train.learning_rate"),
        ("rollout.num_generations", "rollout.group_size"),
        ("zzz", None),
    ],
)
def test_the_nearest_key_is_what_was_probably_meant(wrong, meant):
    assert nearest_key(wrong) == meant


def test_words_of_other_tools_lead_to_keys_that_exist():
    assert set(OTHER_WORDS.values()) <= {key.path for key in describe_keys()}
