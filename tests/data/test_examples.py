"""Rows that hold answers: what each kind takes, and what it says when something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rft.data.source import load_tasks
from rft.data.split import load_heldout, load_split
from rft.errors import DataError
from rft.recipe.schema import DataSpec, SourceSpec

ASKED = {"role": "user", "content": "2+2?"}
SAID = {"role": "assistant", "content": "4"}


def load(folder: Path, kind: Any, *rows: dict[str, Any], **keys: Any) -> list[dict[str, Any]]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        {"prompt": task.messages[-1].content, **task.metadata}
        for task in load_tasks(SourceSpec(source=str(file), **keys), seed=0, answers=kind)
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": "2+2?", "completion": [SAID]},
        {"prompt": [ASKED], "completion": SAID},
        {"messages": [ASKED, SAID]},
    ],
)
def test_a_demonstration_is_text_a_message_or_the_end_of_a_conversation(tmp_path, row):
    assert load(tmp_path, "sft", row) == [{"prompt": "2+2?", "completion": "4"}]


def test_a_column_is_mapped_and_may_be_the_reference_too(tmp_path):
    (task,) = load_tasks(
        SourceSpec(
            source=str(write(tmp_path, {"q": "2+2?", "a": "4"})),
            columns={"prompt": "q", "completion": "a", "reference": "a"},
        ),
        seed=0,
        answers="sft",
    )
    assert (task.metadata["completion"], task.reference) == ("4", "4")


def test_a_conversation_may_be_mapped(tmp_path):
    rows = load(tmp_path, "sft", {"talk": [ASKED, SAID]}, columns={"messages": "talk"})
    assert rows == [{"prompt": "2+2?", "completion": "4"}]


def test_a_pair_has_a_better_and_a_worse_answer(tmp_path):
    rows = load(tmp_path, "dpo", {"prompt": "2+2?", "chosen": "4", "rejected": [{**SAID, "content": "5"}]})
    assert rows == [{"prompt": "2+2?", "chosen": "4", "rejected": "5"}]


@pytest.mark.parametrize(
    ("written", "meant"), [(True, True), (0, False), ("True", True), ("0", False), (1, True)]
)
def test_a_thumb_is_up_or_down_however_files_write_it(tmp_path, written, meant):
    (row,) = load(tmp_path, "kto", {"prompt": "2+2?", "completion": "4", "label": written})
    assert row["label"] is meant


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("sft", {"prompt": "?", "answer": "4"}, "no completion, which algorithm.kind: sft learns from"),
        ("sft", {"prompt": "?", "completion": " "}, "not empty, got ' '"),
        ("sft", {"prompt": "?", "completion": 4}, "must be text"),
        ("sft", {"prompt": "?", "completion": [ASKED]}, "one assistant message"),
        ("sft", {"prompt": "?", "completion": [{**SAID, "tool_calls": [{"id": "1"}]}]}, "tool calls"),
        ("dpo", {"prompt": "?", "chosen": "4"}, "no rejected"),
        ("dpo", {"prompt": "?", "chosen": [ASKED, SAID], "rejected": "5"}, "one assistant message"),
        ("kto", {"prompt": "?", "completion": "4"}, "no label"),
        ("kto", {"prompt": "?", "completion": "4", "label": "up"}, "true (a good answer) or false, got 'up'"),
        ("kto", {"prompt": "?", "completion": "4", "label": 2}, "got 2"),
        ("kto", {"prompt": "?", "completion": "4", "label": 1.0}, "got 1.0"),
    ],
)
def test_a_wrong_row_is_named_with_what_it_holds(tmp_path, kind, row, said):
    good = {"prompt": "?", "completion": "4", "chosen": "4", "rejected": "5", "label": True}
    with pytest.raises(DataError) as caught:
        load(tmp_path, kind, good, row)
    assert "rows.jsonl:2:" in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_answers_set_aside_from_examples_are_judged_so_they_need_what_the_evaluator_reads(tmp_path):
    rows = [{"prompt": f"{number}+1?", "completion": "x"} for number in range(10)]
    data = DataSpec(train=SourceSpec(source=str(write(tmp_path, *rows))))
    with pytest.raises(DataError, match="lacks what the evaluator reads"):
        load_split(data, num_heldout=2, seed=0, requires=frozenset({"reference"}), answers="sft")


def test_with_tasks_of_their_own_to_judge_by_examples_need_no_reference(tmp_path):
    rows = [{"prompt": f"{number}+1?", "completion": "x"} for number in range(10)]
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"prompt": "3+1?", "reference": "4"}) + "\n")
    data = DataSpec(train=SourceSpec(source=str(write(tmp_path, *rows))), eval=SourceSpec(source=str(held)))
    split = load_split(data, num_heldout=2, seed=0, requires=frozenset({"reference"}), answers="sft")
    assert [task.reference for task in split.heldout] == ["4"]
    assert len(split.train) == 9 and split.duplicates == 1  # its prompt is held out


def test_what_is_set_aside_from_conversations_is_the_same_for_an_evaluation_later(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"{number}+1?"}, SAID]} for number in range(20)]
    data = DataSpec(train=SourceSpec(source=str(write(tmp_path, *rows))))
    split = load_split(data, num_heldout=3, seed=1, answers="sft")
    assert load_heldout(data, num_heldout=3, seed=1, answers="sft") == split.heldout


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
