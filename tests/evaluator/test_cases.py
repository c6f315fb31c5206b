"""Golden cases: what holds, and the form they have in a file."""

from __future__ import annotations

import json

import pytest

from rft.errors import DataError
from rft.evaluator import (
    Case,
    load_cases,
)
from rft.types import Message, Score


@pytest.mark.parametrize(
    ("expect", "score", "holds"),
    [
        (0.5, Score(0.5), True),
        (0.5, Score(0.5001), False),
        ((0.2, 0.4), Score(0.3), True),
        ((0.2, 0.4), Score(0.5), False),
        ("unscored", Score.skip("no gold"), True),
        ("unscored", Score(0.0), False),
        (0.0, Score.failed("server", "HTTP 500"), False),
    ],
)
def test_a_case_holds_for_the_expected_score_only(expect, score, holds):
    assert Case("p", "c", expect).holds(score) is holds


def test_several_answers_hold_when_each_beats_the_next():
    case = Case("p", ["best", "good", "bad"], "ranked")
    assert case.holds(Score(0.9), Score(0.5), Score(0.1))
    assert not case.holds(Score(0.9), Score(0.5), Score(0.5))
    assert not case.holds(Score(0.5), Score(0.9), Score(0.1))
    assert not case.holds(Score(0.9), Score.failed("server", "HTTP 500"), Score(0.1))


def test_several_answers_may_share_an_expectation():
    assert Case("p", ["a", "b"], (0.4, 0.6)).holds(Score(0.5), Score(0.6))
    assert not Case("p", ["a", "b"], 0.5).holds(Score(0.5), Score(0.6))


@pytest.mark.parametrize(
    "case",
    [
        Case("2+2?", "4", 1.0, reference="4"),
        Case("2+2?", "five", (0.0, 0.2), fields={"colour": "red"}, config={"tolerance": 1}),
        Case("2+2?", "4", "unscored"),
        Case("2+2?", ["4", "5"], "ranked"),
        Case([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}], "4", 0.0),
    ],
)
def test_a_case_survives_its_json_form(case):
    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case


def test_messages_are_written_as_dictionaries():
    case = Case([Message("user", "2+2?")], "4", 1.0)
    assert case.to_dict()["prompt"] == [{"role": "user", "content": "2+2?"}]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompt": "p", "completion": "c"', "Expecting"),
        ("[1, 2]", "a case is a JSON object, got a list"),
        ('{"prompt": "p", "completion": "c"}', "key 'expect' is missing"),
        ('{"prompt": "p", "completion": "c", "expect": 1, "refrence": 2}', "unknown key 'refrence'"),
        ('{"prompt": "p", "completion": "c", "expect": "high"}', "expect must be .* got 'high'"),
        ('{"prompt": "p", "completion": "c", "expect": [0, 1, 2]}', "expect must be"),
        ('{"prompt": "p", "completion": "c", "expect": null}', "expect must be"),
        ('{"prompt": "p", "completion": "c", "expect": [1, 0]}', "expect must be"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(tmp_path, line, told):
    file = tmp_path / "cases.jsonl"
    file.write_text(f'{{"prompt": "p", "completion": "c", "expect": 1}}\n\n{line}\n')
    with pytest.raises(DataError, match=rf"cases\.jsonl, line 3: {told}"):
        load_cases(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        load_cases(tmp_path / "none.jsonl")


def test_cases_stand_beside_the_code_of_their_evaluator(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text(
        "from rft import Evaluator, evaluator\n"
        "class Judge(Evaluator):\n"
        "    cases = 'cases.jsonl'\n"
        "@evaluator(cases='cases.jsonl')\n"
        "def judge(text):\n"
        "    return 1.0\n"
    )
    (tmp_path / "cases.jsonl").write_text('{"prompt": "p", "completion": "c", "expect": [0.5, 1]}')
    monkeypatch.syspath_prepend(tmp_path)
    import beside

    assert beside.Judge().golden() == beside.judge.golden() == [Case("p", "c", (0.5, 1.0))]
    beside.Judge.cases = [Case("p", "c", 1.0)]
    assert beside.Judge().golden() == [Case("p", "c", 1.0)]
