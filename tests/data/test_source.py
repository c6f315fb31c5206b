import json

import pytest

from rft.data.source import load_tasks
from rft.errors import DataError
from rft.recipe.schema import SourceSpec


@pytest.fixture
def source(tmp_path):
    def write(*rows, **options):
        file = tmp_path / "tasks.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return SourceSpec.model_validate({"source": str(file), **options})

    return write


def test_tasks_keep_the_order_of_the_file(source):
    tasks = load_tasks(source(*[{"prompt": name} for name in "cab"]), seed=0)
    assert [task.messages[0].content for task in tasks] == ["c", "a", "b"]


def test_the_smaller_limit_holds(source):
    spec = source(*[{"prompt": name} for name in "abcd"], limit=3)
    assert len(load_tasks(spec, seed=0)) == 3
    assert len(load_tasks(spec, seed=0, limit=2)) == 2
    assert len(load_tasks(spec, seed=0, limit=9)) == 3


def test_missing_fields_are_counted_and_the_first_row_is_shown(source):
    spec = source(
        {"prompt": "a", "reference": "1", "unit": "m"},
        {"prompt": "b", "unit": "m"},
        {"prompt": "c", "reference": None, "unit": "m"},
        {"prompt": "d", "reference": "1"},
    )
    with pytest.raises(DataError) as caught:
        load_tasks(spec, seed=0, requires={"reference", "unit"})
    said = str(caught.value)
    assert "'reference' in 2 of 4 rows, 'unit' in 1 of 4 rows" in said
    assert "tasks.jsonl:2, which has unit" in said


def test_equal_ids_are_refused_with_both_places(source):
    with pytest.raises(DataError, match=r"tasks.jsonl:2: the id '1' is taken by .*tasks.jsonl:1"):
        load_tasks(source({"prompt": "a", "id": 1}, {"prompt": "b", "id": "1"}), seed=0)


def test_no_rows_are_an_error(source):
    with pytest.raises(DataError, match="holds no rows"):
        load_tasks(source(), seed=0)
