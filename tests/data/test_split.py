import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft.data.split import load_heldout, load_split, split_heldout
from rft.errors import DataError
from rft.recipe.schema import DataSpec
from rft.types import Task


def tasks(prompts):
    return [Task(f"t{index}", prompt, reference=index) for index, prompt in enumerate(prompts)]


@given(st.lists(st.sampled_from("abcdefghijkl"), max_size=40), st.integers(1, 8), st.integers(0, 3))
def test_no_held_out_prompt_occurs_in_training_and_nothing_is_lost(prompts, n, seed):
    distinct = len(set(prompts))
    if distinct < 2:
        with pytest.raises(DataError, match="cannot be split"):
            split_heldout(tasks(prompts), n, seed)
        return
    split = split_heldout(tasks(prompts), n, seed)
    heldout = [task.prompt for task in split.heldout]
    assert not {task.prompt for task in split.train} & set(heldout)
    assert len(set(heldout)) == len(heldout) == min(n, max(1, distinct // 5))
    assert len(split.train) + len(heldout) + split.duplicates == len(prompts)


def test_the_split_depends_on_the_seed_alone():
    many = tasks([str(number) for number in range(100)])
    assert split_heldout(many, 10, 1) == split_heldout(many, 10, 1)
    assert split_heldout(many, 10, 1).heldout != split_heldout(many, 10, 2).heldout


def test_copies_of_a_held_out_prompt_are_left_out_and_reported():
    split = split_heldout(tasks(["same"] * 9 + ["b"]), 1, seed=0)
    other = split_heldout(tasks(["b"] * 9 + ["same"]), 1, seed=0)
    found = next(split for split in (split, other) if split.duplicates)
    assert found.duplicates == 8 and len(found.train) == 1
    assert "left 8 training tasks out: their prompts are held out" in found.notes


def test_little_data_is_mostly_trained_on_and_that_is_said():
    split = split_heldout(tasks("abcdefghij"), 64, seed=0)
    assert len(split.heldout) == 2 and len(split.train) == 8
    assert split.notes == ("held out 2 tasks instead of 64: a fifth of the 10 distinct prompts",)


@pytest.fixture
def data(tmp_path):
    def write(train, heldout=None):
        spec = {}
        for name, prompts in (("train", train), ("eval", heldout)):
            if prompts is not None:
                file = tmp_path / f"{name}.jsonl"
                file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
                spec[name] = str(file)
        return DataSpec.model_validate(spec)

    return write


def test_given_held_out_tasks_are_taken_out_of_training_too(data):
    split = load_split(data("abcabc", "cd"), num_heldout=64, seed=0)
    assert [task.messages[0].content for task in split.heldout] == ["c", "d"]
    assert [task.messages[0].content for task in split.train] == ["a", "b", "a", "b"]
    assert split.duplicates == 2


def test_many_held_out_tasks_are_sampled_by_seed(data):
    spec = data("xyz", "abcdefghijklmnopqrstuvw")
    first = load_split(spec, num_heldout=5, seed=0).heldout
    assert len(first) == 5 and first == load_split(spec, num_heldout=5, seed=0).heldout
    assert first != load_split(spec, num_heldout=5, seed=1).heldout


def test_training_on_nothing_but_held_out_prompts_is_an_error(data):
    with pytest.raises(DataError, match="every training prompt is also held out"):
        load_split(data("ab", "abc"), num_heldout=64, seed=0)


def test_both_sets_must_have_what_the_evaluator_reads(data):
    with pytest.raises(DataError, match="train.jsonl lacks"):
        load_split(data("ab", "cd"), num_heldout=1, seed=0, requires=frozenset({"reference"}))


def test_generated_held_out_tasks_are_not_the_training_tasks():
    pytest.importorskip("reasoning_gym")
    source = {"source": "reasoning-gym:chain_sum", "with": {"size": 40, "min_digits": 6, "max_digits": 9}}
    split = load_split(DataSpec.model_validate({"train": source, "eval": source}), num_heldout=40, seed=0)
    assert len(split.train) == len(split.heldout) == 40 and split.duplicates == 0


def test_held_out_tasks_alone_are_those_of_the_split_and_need_no_training_data(tmp_path):
    rows = "".join(f'{{"prompt": "{n}+1", "id": "{n}"}}\n' for n in range(12))
    (tmp_path / "eval.jsonl").write_text(rows)
    (tmp_path / "train.jsonl").write_text('{"prompt": "9+9"}\n')
    own = DataSpec(train=str(tmp_path / "train.jsonl"), eval=str(tmp_path / "eval.jsonl"))
    asked = {"num_heldout": 4, "seed": 3}
    assert load_heldout(own, **asked) == load_split(own, **asked).heldout
    none = DataSpec(train=str(tmp_path / "missing.jsonl"), eval=str(tmp_path / "eval.jsonl"))
    assert len(load_heldout(none, **asked)) == 4
    shared = DataSpec(train=str(tmp_path / "eval.jsonl"))
    assert load_heldout(shared, **asked) == load_split(shared, **asked).heldout
