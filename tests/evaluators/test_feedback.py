"""Labels as an evaluator: whom a label belongs to, and that no label is no opinion."""

from __future__ import annotations

import json

import pytest

from rft import Message, Rollout, Task, score
from rft.errors import DataError
from rft.evaluators import Feedback

ROWS = [
    {"id": "r-1", "prompt": "2+2?", "completion": "4", "label": "up"},
    {"id": "r-2", "prompt": "2+2?", "completion": "5", "label": "down"},
    {"id": "r-3", "label": "down"},
]


def jsonl(folder, rows=ROWS):
    path = folder / "thumbs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    return str(path)


def test_a_jsonl_and_a_csv_file_say_the_same(tmp_path):
    table = tmp_path / "thumbs.csv"
    table.write_text(
        "\ufeffid,prompt,completion,label\nr-1,2+2?,4,up\nr-2,2+2?,5,down\nr-3,,,down\n", encoding="utf-8"
    )
    for judge in (Feedback(file=jsonl(tmp_path)), Feedback(file=str(table))):
        assert score(judge, prompt="2+2?", completion="4").value == 1.0
        assert score(judge, prompt="2+2?", completion="5").value == 0.0
        assert score(judge, prompt="2+2?", completion="four").status == "skipped"


async def test_a_label_goes_by_the_answers_own_id_and_not_by_the_tasks():
    judge = Feedback(labels=ROWS)
    task = Task("t", "other", metadata={"response_id": "r-1"})
    said = (*task.messages, Message("assistant", "fresh"))
    assert (await judge.evaluate(Rollout("r-3", "t", task, said))).value == 0.0
    assert (await judge.evaluate(Rollout("t/0", "t", task, said, env={"response_id": "r-1"}))).value == 1.0
    assert (await judge.evaluate(Rollout("t/0", "t", task, said))).status == "skipped"


async def test_a_whole_conversation_is_a_prompt_too():
    chat = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2?"}]
    judge = Feedback(labels=[{"prompt": chat, "completion": "4", "label": 1}])
    task = Task("t", tuple(Message.from_dict(one) for one in chat))
    assert (
        await judge.evaluate(Rollout("t/0", "t", task, (*task.messages, Message("assistant", "4"))))
    ).value == 1.0
    assert score(judge, prompt="2+2?", completion="4").status == "skipped"


@pytest.mark.parametrize(
    ("label", "value"),
    [("Up ", 1.0), ("👎", 0.0), (True, 1.0), (False, 0.0), (5, 1.0), ("2", 0.25), (1.0, 0.0), ("3", 0.5)],
)
def test_labels_are_thumbs_or_marks_on_the_scale(label, value):
    judge = Feedback(labels=[{"prompt": "?", "completion": "4", "label": label}], scale=(1, 5))
    assert score(judge, prompt="?", completion="4").value == value


def test_several_labels_are_averaged_and_counted():
    marks = [{"prompt": "?", "completion": "4", "label": mark} for mark in ("up", "up", "down")]
    got = score(Feedback(labels=marks), prompt="?", completion="4")
    assert got.value == pytest.approx(2 / 3) and got.metrics == {"labels": 3.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "r", "label": "meh"}\n', "label must be up, down or a number from 0 to 1 .* got 'meh'"),
        ('{"id": "r", "label": 5}\n', "from 0 to 1 .scale., got 5"),
        ('{"id": "r"}\n', "got None"),
        ('{"label": "up"}\n', "line 1 says of no answer"),
        ('{"prompt": "?", "label": "up"}\n', "needs id, or prompt and completion; it has prompt, label"),
        ('{"id": "r", "label": "up"}\nnot JSON\n', "line 2 is not JSON"),
        ("[1]\n", "line 1 must be a JSON object"),
        ('{"prompt": [{"content": "?"}], "completion": "", "label": "up"}\n', "text or chat messages"),
    ],
)
def test_a_wrong_row_is_named_before_anything_runs(tmp_path, text, said):
    path = tmp_path / "thumbs.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        Feedback(file=str(path))


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"thumbs.jsonl cannot be read: No such file"):
        Feedback(file=str(tmp_path / "thumbs.jsonl"))


@pytest.mark.parametrize(
    "options", [{}, {"file": "a.csv", "labels": ROWS}, {"labels": ROWS, "scale": (1, 1)}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="validation error"):
        Feedback(**options)


def test_the_fingerprint_covers_the_labels_in_the_file(tmp_path):
    before = Feedback(file=jsonl(tmp_path)).fingerprint()
    assert Feedback(file=jsonl(tmp_path)).fingerprint() == before
    assert Feedback(file=jsonl(tmp_path, ROWS[:2])).fingerprint() != before


def test_a_file_beside_the_recipe_is_found_from_anywhere(tmp_path, monkeypatch):
    from rft.recipe.load import load_recipe
    from rft.recipe.resolve import resolve_evaluator

    jsonl(tmp_path)
    (tmp_path / "r.yaml").write_text(
        "name: r\nmodel: packaged:tiny\ndata: {train: {source: thumbs.jsonl}}\n"
        "evaluator: {use: feedback, with: {file: thumbs.jsonl}}\n"
    )
    monkeypatch.chdir("/")
    recipe = load_recipe(str(tmp_path / "r.yaml"))
    assert score(resolve_evaluator(recipe.evaluator), prompt="2+2?", completion="4").value == 1.0
