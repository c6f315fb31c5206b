import math
import typing

from rft.recipe.schema import Recipe
from rft.runs.metrics import METRICS, find_metric, out_of_range
from rft.types import FailureKind


def test_keys_are_unique_and_every_range_says_what_to_do():
    assert len({metric.key for metric in METRICS}) == len(METRICS)
    assert [metric.key for metric in METRICS if bool(metric.range) != bool(metric.action)] == []


def test_a_family_stands_for_its_members():
    assert find_metric("reward/part/form").key == "reward/part/<name>"
    assert all(find_metric(f"fail/{kind}").key == "fail/<kind>" for kind in typing.get_args(FailureKind))
    assert find_metric("my/own") is None


def test_every_key_that_training_writes_is_in_the_table():
    import ast
    import re
    from pathlib import Path

    import rft

    page = ast.parse(Path(rft.__file__).with_name("steplog.py").read_text())
    constants = [node.value for node in ast.walk(page) if isinstance(node, ast.Constant)]
    keys = [text for text in constants if isinstance(text, str) and re.fullmatch(r"[a-z]+/[a-z0-9_]+", text)]
    assert "reward/mean" in keys
    assert [key for key in keys if find_metric(key) is None] == []


def test_values_in_range_give_no_advice():
    assert out_of_range({"entropy": 1.2, "ratio/mean": 1.0, "loss": -3.0, "my/own": 9e9, "step": 4}) == {}


def test_a_value_out_of_range_gives_its_range_and_the_setting_to_change():
    found = out_of_range({"entropy": 0.001, "ratio/mean": 1.5})
    assert found["entropy"].startswith("entropy is 0.001 (healthy: 0.01 or more): ")
    assert "rollout.temperature" in found["entropy"]
    assert "(healthy: 0.9 to 1.1)" in found["ratio/mean"]


def test_a_number_that_is_not_finite_is_out_of_range():
    assert "not a finite number" in out_of_range({"grad_norm": math.nan})["grad_norm"]
    assert "not a finite number" in out_of_range({"grad_norm": None})["grad_norm"]


def test_every_setting_that_advice_names_exists_in_the_recipe():
    import re

    for metric in METRICS:
        for path in re.findall(r"\b(?:rollout|train|scoring|algorithm|engine)\.[a-z_.]+[a-z]", metric.action):
            section = Recipe
            for part in path.split("."):
                fields = section.model_fields
                assert part in fields, f"{metric.key} advises {path}"
                section = fields[part].annotation
