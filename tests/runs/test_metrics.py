import ast
import math
import re
import typing
from pathlib import Path

from rft.recipe.schema import Recipe
from rft.runs.metrics import METRICS, find_metric, in_order, out_of_range, warnings
from rft.types import FailureKind


def test_keys_are_unique_and_every_range_says_what_to_do():
    assert len({metric.key for metric in METRICS}) == len(METRICS)
    assert [metric.key for metric in METRICS if bool(metric.range) != bool(metric.action)] == []


def test_a_family_stands_for_its_members():
    assert find_metric("reward/part/form").key == "reward/part/<name>"
    assert all(find_metric(f"fail/{kind}").key == "fail/<kind>" for kind in typing.get_args(FailureKind))
    assert find_metric("my/own") is None


def written_keys() -> tuple[set[str], set[str]]:
    """Texts in our own code, the table's left out, and how those begin that f-strings make."""
    import rft

    keys: set[str] = set()
    beginnings: set[str] = set()
    for path in Path(rft.__file__).parent.rglob("*.py"):
        if "templates" in path.parts or (path.name == "metrics.py" and path.parent.name == "runs"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                beginnings.add(node.values[0].value)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                keys.add(node.value)
    return keys, beginnings


def test_every_row_of_the_table_is_written_by_some_code():
    keys, beginnings = written_keys()
    families = {metric.key.partition("<")[0]: metric.key for metric in METRICS if "<" in metric.key}
    alone = {metric.key for metric in METRICS if "<" not in metric.key}
    assert alone - keys == set()
    assert families.keys() - beginnings == set()


def test_every_key_that_the_pages_of_a_step_write_is_in_the_table():
    import rft

    found = set()
    for name in ("steplog.py", "offline.py", "heldout.py", "around.py", "progress.py"):
        page = ast.parse(Path(rft.__file__).with_name(name).read_text())
        tables = [node.value for node in page.body if isinstance(node, ast.Assign)]
        theirs = {id(key) for table in tables if isinstance(table, ast.Dict) for key in table.keys}
        constants = (node for node in ast.walk(page) if isinstance(node, ast.Constant))
        texts = {node.value for node in constants if id(node) not in theirs}
        found |= {
            text for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z]+/[a-z0-9_]+", text)
        }
    assert "reward/mean" in found and "heldout/gap" in found
    assert sorted(key for key in found if find_metric(key) is None) == []


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
    for metric in METRICS:
        for path in re.findall(r"\b(?:rollout|train|scoring|algorithm|engine)\.[a-z_.]+[a-z]", metric.action):
            section = Recipe
            for part in path.split("."):
                fields = section.model_fields
                assert part in fields, f"{metric.key} advises {path}"
                section = fields[part].annotation


def test_a_run_is_told_once_for_each_key_that_left_its_range_with_how_often_and_when_last():
    rows = [
        {"step": 1, "entropy": 1.0, "grad_norm": 200.0},
        {"step": 2, "entropy": 0.001, "grad_norm": None},
        {"step": 3, "grad_norm": 2.0},
        {"step": 4, "entropy": 1.0, "grad_norm": 3.0},
    ]
    gradient, entropy = warnings(rows)
    assert gradient.startswith(
        "grad_norm is not a finite number (healthy: 100 or less) at step 2, and outside in 2 of 4 steps: "
    )
    assert entropy.startswith(
        "entropy is 0.001 (healthy: 0.01 or more) at step 2, and outside in 1 of 3 steps: "
    )
    assert warnings([]) == []


def test_keys_come_as_the_table_has_them_and_a_users_own_last():
    keys = [
        "my/own",
        "time/step_s",
        "fail/timeout",
        "reward/part_std/form",
        "reward/part/form",
        "reward/mean",
    ]
    assert in_order(keys) == [
        "reward/mean",
        "reward/part/form",
        "reward/part_std/form",
        "fail/timeout",
        "time/step_s",
        "my/own",
    ]
