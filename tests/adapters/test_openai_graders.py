"""OpenAI's graders as evaluators: their meaning, and what becomes of bad answers, rows and judges."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from rft import Case, Limits, Score, evaluator, score
from rft.adapters._openai import Template
from rft.adapters._similarity import MEASURES
from rft.adapters.openai_graders import Combined, PythonGrader, StringCheck, TextSimilarity
from rft.adapters.openai_models import LabelModel, ScoreModel
from rft.testing.fake_api import FakeAPI, server_error

CITY = "{{ sample.output_json.city }}"


def judged(judge, completion, **fields):
    return score(judge, prompt="Capital of France?", completion=completion, **fields)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [("eq", (1, 0, 0)), ("ne", (0, 1, 1)), ("like", (1, 1, 0)), ("ilike", (1, 1, 1))],
)
def test_string_checks_compare_the_filled_texts(operation, expected):
    judge = StringCheck(input="{{sample.output_text}}", reference="{{item.city}}", operation=operation)
    assert judge.requires == {"city"}
    answers = ("Paris", "It is Paris.", "paris")
    assert tuple(judged(judge, answer, city="Paris").value for answer in answers) == expected


@pytest.mark.parametrize("operation", ["eq", "ne", "like", "ilike"])
@pytest.mark.parametrize("answer", ["no JSON", "{}", "[1]", "null", '{"town": "Paris"}', ""])
def test_an_answer_without_what_is_read_scores_lowest_whatever_is_asked_of_it(operation, answer):
    judge = StringCheck(input=CITY, reference="Bonn", operation=operation)
    assert judged(judge, answer).value == 0.0


def test_a_row_without_what_is_read_is_skipped():
    judge = StringCheck(input="{{sample.output_text}}", reference="{{item.gold.city}}", operation="eq")
    got = judged(judge, "Paris", gold={"town": "Paris"})
    assert (got.value, got.status) == (None, "skipped")
    assert "item.gold.city" in got.reason


def test_an_answer_cannot_reach_into_the_row():
    judge = StringCheck(input="{{sample.output_text}}", reference="{{item.city}}", operation="eq")
    assert judged(judge, "{{item.city}}", city="Paris").value == 0.0


@pytest.mark.parametrize(
    "text",
    ["{{ city }}", "{{ row.city }}", "{{ item }}", "{{ sample.output_audio }}", "{{ item.a + 1 }}", "{{}}"],
)
def test_other_expressions_in_braces_are_refused(text):
    with pytest.raises(ValueError, match=r"\{\{"):
        Template(text)
    with pytest.raises(ValidationError):
        StringCheck(input=text, reference="x", operation="eq")


def test_paths_lead_through_lists_and_keys_and_other_values_are_written_as_json():
    answer = json.dumps({"cities": [{"name": "Paris", "big": True}]})
    judge = StringCheck(
        input="{{sample.output_json.cities[0].name}} {{ sample.output_json.cities[0].big }}",
        reference="{{item.n}} true",
        operation="ne",
    )
    got = judged(judge, answer, n=3)
    assert got.reason == "'Paris true' ne '3 true'"


WORKED = {
    "rouge_1": 2 * 3 / (4 + 4),  # police, the, gunman
    "rouge_2": 2 * 1 / (3 + 3),  # the gunman
    "rouge_3": 0.0,
    "rouge_l": 2 * 3 / 8,
    "gleu": (3 + 1) / (4 + 3 + 2 + 1),
}


@pytest.mark.parametrize(("metric", "expected"), WORKED.items())
def test_measures_by_hand(metric, expected):
    assert MEASURES[metric]("Police kill the gunman", "police killed the gunman") == pytest.approx(expected)


@pytest.mark.parametrize("metric", MEASURES)
def test_every_measure_goes_from_0_to_1_and_stands_nothing_in_nothing(metric):
    one = "the quick brown fox jumps over"
    assert MEASURES[metric](one, one) == pytest.approx(1.0)
    assert MEASURES[metric]("", one) == 0.0
    assert 0.0 <= MEASURES[metric]("an unrelated text", one) < 0.6
    assert MEASURES[metric]("", "") in (0.0, 1.0)


def test_a_combination_is_the_function_of_its_graders():
    name = TextSimilarity(input="{{sample.output_json.name}}", reference="{{item.name}}", metric="rouge_1")
    email = StringCheck(input="{{sample.output_json.email}}", reference="{{item.email}}", operation="eq")
    judge = Combined(lambda name, email: (name + email) / 2, name=name, email=email)
    assert judge.requires == {"name", "email"}
    right = json.dumps({"name": "John Doe", "email": "j@x.org"})
    got = judged(judge, right, name="john doe", email="other@x.org")
    assert (got.value, got.parts["email"].value) == (0.5, 0.0)
    other = Combined(lambda name, email: (name + email) / 3, name=name, email=email)
    assert judge.fingerprint() != other.fingerprint()


def test_a_grader_without_a_number_masks_the_combination():
    @evaluator(limits=Limits(attempts=1))
    def down(text):
        raise ConnectionError("no route")

    @evaluator
    def unsure(text):
        return Score.skip("cannot tell")

    same = StringCheck(input="a", reference="a", operation="eq")
    assert judged(Combined(lambda x, y: x + 0 * y, x=same, y=down), "!").failure.kind == "transport"
    assert judged(Combined(lambda x, y: x + 0 * y, x=same, y=unsure), "!").status == "skipped"


def test_a_formula_without_a_result_is_a_failure():
    zero = StringCheck(input="a", reference="b", operation="eq")
    got = judged(Combined(lambda x: 1 / x, x=zero), "!")
    assert (got.value, got.failure.kind) == (None, "bug")


def grade(source, completion="4", **fields):
    judge = PythonGrader(source=source, seconds=20)
    judge.limits = Limits(attempts=1, timeout_s=60)
    return judged(judge, completion, **fields)


def test_a_python_grader_runs_apart_and_sees_sample_and_item():
    source = (
        "def grade(sample, item):\n"
        "    print('noise')\n"
        "    said = sample['output_json'] or {}\n"
        "    return 0.5 * (said.get('city') == item['city']) + 0.25 * (sample['output_tools'] == [])\n"
    )
    assert grade(source, '{"city": "Paris"}', city="Paris").value == 0.75
    assert grade(source, "Paris", city="Paris").value == 0.25


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("raise KeyError('gold')", "bug"),
        ("return 'good'", "bug"),
        ("return None", "bug"),
        ("return float('nan')", "bad_response"),
        ("import os; os._exit(0)", "bug"),
        ("import os; os._exit(3)", "sandbox"),
    ],
)
def test_a_python_grader_that_gives_no_grade_gives_no_number(body, kind):
    got = grade(f"def grade(sample, item):\n    {body}\n")
    assert (got.value, got.failure.kind) == (None, kind)


@pytest.fixture
def api():
    with FakeAPI() as api:
        yield api


def completion(text):
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}


def score_model(api, **options):
    judge = ScoreModel(
        input=[
            {"role": "system", "content": "Grade from 0 to 2."},
            {"role": "user", "content": "Reference: {{item.city}}. Answer: {{sample.output_text}}"},
        ],
        model="fake",
        url=f"{api.url}/v1",
        range=(0, 2),
        **options,
    )
    judge.limits = Limits(attempts=1)
    return judge


def test_a_score_model_asks_its_own_words_and_reads_the_result(api):
    api.reply(completion('{"steps": [{"description": "d", "conclusion": "same city"}], "result": 1.5}'))
    got = judged(
        score_model(api, body={"seed": 7}, usd_per_million_in=1000, usd_per_million_out=100),
        "Paris",
        city="Paris",
    )
    assert (got.value, got.reason, got.cost.usd) == (1.5, "same city", pytest.approx(0.101))
    body = api.requests[0].json()
    assert body["messages"][0] == {"role": "system", "content": "Grade from 0 to 2."}
    assert body["messages"][1]["content"].startswith("Reference: Paris. Answer: Paris\n\nReply with one JSON")
    assert body["seed"] == 7
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["steps", "result"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (completion("1.5"), "judge_parse"),
        (completion('{"result": 1}'), "judge_parse"),
        (completion('{"steps": [], "result": "1"}'), "judge_parse"),
        (completion("I cannot grade this."), "judge_parse"),
        (completion('{"steps": [], "result": 3}'), "bad_response"),
        (server_error(503), "server"),
    ],
)
def test_what_openai_would_grade_0_or_cut_has_no_number(api, answer, kind):
    api.reply(answer)
    got = judged(score_model(api), "Paris", city="Paris")
    assert (got.value, got.failure.kind) == (None, kind)


def test_a_label_model_passes_what_it_labels_so(api):
    judge = LabelModel(
        input=[{"role": "user", "content": "{{sample.output_text}}"}],
        model="fake",
        url=f"{api.url}/v1",
        labels=["kind", "curt", "rude"],
        passing=["kind", "curt"],
    )
    judge.limits = Limits(attempts=1)
    cases = [Case("?", "Gladly!", expect=1.0), Case("?", "No.", expect=1.0), Case("?", "Fool!", expect=0.0)]
    for case, label in zip(cases, ["kind", "curt", "rude"], strict=True):
        api.reply(completion(json.dumps({"label": label})))
        assert case.holds(judged(judge, case.completion))
    api.reply(completion('{"label": "nice"}'))
    assert judged(judge, "!").failure.kind == "judge_parse"
    with pytest.raises(ValidationError, match="not among the labels"):
        LabelModel(input=judge.config.input, model="m", labels=["a", "b"], passing=["c"])
