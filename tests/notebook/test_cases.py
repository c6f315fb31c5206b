"""A surprise becomes a golden case of the evaluator, once."""

from __future__ import annotations

import sys

import pytest

from rft import Message, Rollout, Task, evaluator, score
from rft.errors import UserError
from rft.notebook.cases import add_case

GRADER = """
from pydantic import BaseModel
from rft import Evaluator, evaluator

@evaluator(cases="near.jsonl")
def near(text, reference, within=2.0):
    return max(0.0, 1 - abs(float(text) - float(reference)) / within)

class Near(Evaluator):
    class Config(BaseModel):
        within: float = 2.0
    cases = "cases/class.jsonl"
    async def evaluate(self, rollout):
        return 1.0
"""


@pytest.fixture
def grader(tmp_path, monkeypatch):
    (tmp_path / "grader_of_cases.py").write_text(GRADER)
    monkeypatch.syspath_prepend(tmp_path)
    import grader_of_cases

    yield grader_of_cases
    del sys.modules["grader_of_cases"]


def said(*messages: Message, reference="29", **fields) -> Rollout:
    task = Task("t", messages[:-1] or (Message("user", "How many?"),), reference, fields)
    return Rollout("t/0", "t", task, messages if len(messages) > 1 else (*task.messages, *messages))


ANSWER = Message("assistant", "28")


def test_it_is_appended_to_the_file_that_the_evaluator_names_and_read_back_with_its_cases(grader, tmp_path):
    case = add_case(said(ANSWER), expect=0.5, evaluator=grader.near)
    assert (tmp_path / "near.jsonl").read_text().count("\n") == 1
    add_case(said(Message("assistant", "27")), expect=(0.0, 0.1), evaluator=grader.near)
    assert grader.near.golden()[0] == case
    assert [one.expect for one in grader.near.golden()] == [0.5, (0.0, 0.1)]
    assert case.holds(score(grader.near, prompt=case.prompt, completion=case.completion, reference="29"))


def test_a_duplicate_is_refused_also_when_it_expects_something_else(grader):
    add_case(said(ANSWER), expect=0.5, evaluator=grader.near)
    with pytest.raises(UserError, match=r"near.jsonl has this answer as case 1 already, expecting 0.5"):
        add_case(said(ANSWER), expect="unscored", evaluator=grader.near)
    add_case(said(ANSWER, reference="30"), expect=0.0, evaluator=grader.near)  # another question
    add_case(said(ANSWER), expect=0.9, evaluator=grader.near.configured(within=10.0))  # other options
    assert [case.config for case in grader.near.golden()] == [None, None, {"within": 10.0}]


def test_options_of_a_class_and_the_tasks_fields_go_with_the_case(grader, tmp_path):
    (tmp_path / "cases").mkdir()
    case = add_case(said(ANSWER, unit="days"), expect=1, evaluator=grader.Near(within=3))
    assert case.config == {"within": 3.0} and case.fields == {"unit": "days"}
    assert grader.Near().golden() == [case]


def test_a_conversation_keeps_all_that_was_said_before_the_last_answer(grader):
    talk = (
        Message("system", "Be brief."),
        Message("user", "How many?"),
        Message("assistant", "Days?"),
        Message("user", "Yes."),
    )
    rollout = Rollout("t/0", "t", Task("t", talk[:2], "29"), (*talk, ANSWER))
    case = add_case(rollout, expect=0.5, evaluator=grader.near)
    assert [message["content"] for message in case.prompt] == ["Be brief.", "How many?", "Days?", "Yes."]
    assert grader.near.golden() == [case]


def test_a_line_without_its_end_is_not_glued_to_the_next(grader, tmp_path):
    (tmp_path / "near.jsonl").write_text('{"prompt": "a", "completion": "b", "expect": 1}')
    add_case(said(ANSWER), expect=0.5, evaluator=grader.near)
    assert len(grader.near.golden()) == 2


def test_an_evaluator_without_a_file_says_how_to_get_one(tmp_path):
    @evaluator
    def loose(text):
        return 1.0

    with pytest.raises(UserError, match=r'loose has no cases yet.*set cases="loose.jsonl" on it'):
        add_case(said(ANSWER), expect=1, evaluator=loose)
    add_case(said(ANSWER), expect=1, evaluator=loose, path=tmp_path / "loose.jsonl")
    assert (tmp_path / "loose.jsonl").is_file()


@pytest.mark.parametrize("expect", ["high", "<0.3", (0.1, 0.2, 0.3), None, "ranked"])
def test_what_is_no_expectation_is_refused_and_nothing_is_written(grader, tmp_path, expect):
    with pytest.raises(UserError):
        add_case(said(ANSWER), expect=expect, evaluator=grader.near)
    assert not (tmp_path / "near.jsonl").exists()
