"""Every kind of source gives rows with their place; every way it can be broken is told with that place."""

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rft.data.rows import kind_of, read_rows
from rft.errors import UserError
from rft.recipe.schema import SourceSpec
from rft.types import Task


def rows(source, seed=0, **options):
    return list(read_rows(SourceSpec.model_validate({"source": str(source), **options}), seed=seed))


def refusal(source, **options):
    with pytest.raises(UserError) as caught:
        rows(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("a.jsonl", "file"),
        ("/x/a b.csv", "file"),
        ("a.parquet", "file"),
        ("package.module:function", "function"),
        ("./rows.py:make", "function"),
        ("/x/rows.py:make", "function"),
        ("reasoning-gym:chain_sum", "reasoning-gym"),
        ("owner/name", "dataset"),
        ("gsm8k", "dataset"),
        ("/x/folder", "dataset"),
    ],
)
def test_a_source_is_told_by_its_shape(source, kind):
    assert kind_of(source) == kind


def test_jsonl_rows_know_their_line_and_blank_lines_are_no_rows(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('\ufeff{"a": 1}\n\n{"a": "ü"}\n', encoding="utf-8")
    assert rows(file) == [(f"{file}:1", {"a": 1}), (f"{file}:3", {"a": "ü"})]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2: not valid JSON: Expecting value at column 7"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: a row must be a JSON object, got [1]"),
        ("a.jsonl", b'{"a": "\xff"}\n', "a.jsonl: cannot be read: 'utf-8' codec"),
        ("a.csv", b"a,b\n1,2\n3\n", "a.csv:3: fewer cells than the 2 columns of the header"),
        ("a.csv", b"a,b\n1,2,3\n", "a.csv:2: more cells than the 2 columns of the header"),
        ("a.csv", b"a,b,a\n1,2,3\n", "a.csv:1: the header names a more than once"),
        ("a.csv", b'a,b\n"x"y,2\n', "a.csv:2: not valid CSV"),
        ("a.parquet", b"PAR1 not really", "a.parquet: not valid Parquet"),
    ],
)
def test_a_broken_file_is_told_with_its_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "tasks.jsonl").touch()
    assert refusal(tmp_path / "task.jsonl").endswith("did you mean tasks.jsonl?")
    assert refusal(tmp_path / "nowhere").endswith("ending in .csv, .jsonl, .parquet or a hub id")


def test_csv_cells_may_span_lines_and_the_place_is_where_the_row_ends(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('a,b\n"x\ny",2\n3,4\n')
    assert rows(file) == [(f"{file}:3", {"a": "x\ny", "b": "2"}), (f"{file}:4", {"a": "3", "b": "4"})]


def test_parquet_rows_keep_their_types(tmp_path):
    file = tmp_path / "a.parquet"
    values = [{"n": [1, 2], "m": [{"role": "user"}]}, {"n": [], "m": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), file)
    assert rows(file) == [(f"{file}: row 1", values[0]), (f"{file}: row 2", values[1])]


def test_a_function_gets_its_arguments_and_the_seed_if_it_asks(tmp_path):
    file = tmp_path / "make_rows.py"
    file.write_text(
        "from rft import Task\n"
        "def plain(n): return [{'prompt': str(k)} for k in range(n)]\n"
        "def seeded(seed):\n    yield Task(f's{seed}', 'hello')\n"
    )
    assert [row.value for row in rows(f"{file}:plain", **{"with": {"n": 2}})] == [
        {"prompt": "0"},
        {"prompt": "1"},
    ]
    assert rows(f"{file}:seeded", seed=5)[0].value == Task("s5", "hello")
    assert rows(f"{file}:seeded", seed=5, **{"with": {"seed": 9}})[0].value.id == "s9"


def test_a_function_is_read_as_a_stream(tmp_path):
    file = tmp_path / "endless.py"
    file.write_text(
        "import itertools\ndef make():\n    return ({'prompt': str(k)} for k in itertools.count())\n"
    )
    stream = read_rows(SourceSpec(source=f"{file}:make"), seed=0)
    assert [next(stream).value["prompt"] for _ in range(3)] == ["0", "1", "2"]


def test_a_broken_function_is_told_with_its_place(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(
        "def late():\n    yield {'prompt': 'a'}\n    1 / 0\n"
        "def number(): return 3\n"
        "def text(): return 'abc'\n"
        "def lists(): return [[1]]\n"
        "def needs(n): return []\n"
    )
    assert f"failed: ZeroDivisionError: division by zero ({file}:3)" in refusal(f"{file}:late")
    assert "must return or yield rows, got int" in refusal(f"{file}:number")
    assert "must return or yield rows, got str" in refusal(f"{file}:text")
    assert "row 1: must be a mapping or a Task, got list" in refusal(f"{file}:lists")
    assert "cannot be called with []: missing a required argument: 'n'" in refusal(f"{file}:needs")
    assert "unexpected keyword argument 'm'" in refusal(f"{file}:late", **{"with": {"m": 1}})
    assert "no file" in refusal(f"{tmp_path}/gone.py:late")


def test_a_folder_of_a_hugging_face_dataset_is_read_by_split(tmp_path):
    values = datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}])
    values.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": values, "test": values.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert [row.value for row in rows(tmp_path / "one")] == [{"prompt": "a"}, {"prompt": "b"}]
    assert len(rows(tmp_path / "two")) == 2
    assert [row.value for row in rows(tmp_path / "two", split="test")] == [{"prompt": "b"}]
    assert "has no split 'tset'; it has train, test" in refusal(tmp_path / "two", split="tset")


def test_a_folder_of_data_files_is_a_dataset_too(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_text('{"prompt": "a"}\n')
    options = {"with": {"cache_dir": str(tmp_path / "cache")}}
    assert [row.value for row in rows(tmp_path / "files", **options)] == [{"prompt": "a"}]
    assert "cannot be loaded" in refusal(tmp_path / "files", split="gone", **options)


def test_reasoning_gym_rows_carry_the_entry_its_own_scorer_takes():
    reasoning_gym = pytest.importorskip("reasoning_gym")
    options = {"with": {"size": 3, "max_terms": 3}}
    made = [row.value for row in rows("reasoning-gym:chain_sum", seed=4, **options)]
    assert len(made) == 3
    scorer = reasoning_gym.create_dataset("chain_sum", size=3, seed=4, max_terms=3)
    for row in made:
        assert row["prompt"] == row["entry"]["question"]
        assert scorer.score_answer(row["reference"], row["entry"]) == 1.0
    assert made == [row.value for row in rows("reasoning-gym:chain_sum", seed=4, **options)]
    assert made != [row.value for row in rows("reasoning-gym:chain_sum", seed=1000, **options)]


def test_as_many_reasoning_gym_rows_are_made_as_the_limit_asks():
    pytest.importorskip("reasoning_gym")
    assert len(rows("reasoning-gym:chain_sum", limit=600)) == 600  # its own default is 500


def test_a_wrong_reasoning_gym_name_or_option_is_told():
    pytest.importorskip("reasoning_gym")
    assert "did you mean chain_sum" in refusal("reasoning-gym:chain_sums")
    assert "unexpected keyword argument 'sizee'" in refusal(
        "reasoning-gym:chain_sum", **{"with": {"sizee": 3}}
    )
