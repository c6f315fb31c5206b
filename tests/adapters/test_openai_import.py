"""`rft evaluator import`: the module it writes works, reads well, and holds nothing that was not checked."""

from __future__ import annotations

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rft import score
from rft.adapters._source import block, literal
from rft.adapters.openai_import import Refused, name_for, read_grader, translate
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Use

EMAIL = {
    "type": "string_check",
    "name": "email_grader",
    "input": "{{sample.output_json.email}}",
    "reference": "{{item.email}}",
    "operation": "eq",
}
NAME = {
    "type": "text_similarity",
    "name": "name_grader",
    "input": "{{sample.output_json.name}}",
    "reference": "{{item.name}}",
    "evaluation_metric": "rouge_1",
    "pass_threshold": 0.9,
}
PYTHON = {
    "type": "python",
    "source": "def grade(sample, item):\n    \"\"\"It's '''odd''' \\\\ text.\"\"\"\n    return 0.5\n",
    "image_tag": "2025-05-08",
}
SCORE = {
    "type": "score_model",
    "name": "tone",
    "model": "o4-mini",
    "input": [
        {"role": "developer", "content": "Grade the tone.\nBe strict."},
        {"role": "user", "content": [{"type": "input_text", "text": "{{sample.output_text}}"}]},
    ],
    "range": [0, 2],
    "sampling_params": {"max_completions_tokens": 500, "top_p": 1, "reasoning_effort": "low"},
}
LABEL = {
    "type": "label_model",
    "name": "kindness",
    "model": "gpt-4o",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    "labels": ["kind", "rude"],
    "passing_labels": ["kind"],
}
# The "Combined graders" example of OpenAI's guide, with another measure.
MULTI = {
    "type": "multi",
    "graders": {"name": NAME, "email": EMAIL},
    "calculate_output": "(name + email) / 2",
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder, grader, name="imported"):
    text = translate(grader, name=name, origin="grader.json")
    (folder / f"{name}.py").write_text(text)
    return resolve_evaluator(Use(use=f"./{name}.py:{name}"), folder), text


def test_the_guides_example_scores_as_the_guide_says(folder):
    judge, text = made(folder, MULTI, "contact")
    row = {"name": "John Doe", "email": "john.doe@gmail.com"}

    def value(answer):
        return score(judge, prompt="Extract.", completion=json.dumps(answer), **row).value

    assert value(row) == 1.0
    assert 0.5 <= value({**row, "name": "John Dough"}) < 1.0
    assert 0.0 < value({**row, "email": "jd@gmail.com"}) <= 0.5
    assert score(judge, prompt="Extract.", completion="John Doe", **row).value == 0.0
    assert "Reads the columns: email, name." in text
    assert "pass_threshold is left out" in text
    assert "def calculate_output(name, email):\n    return (name + email) / 2\n" in text


@pytest.mark.parametrize("grader", [EMAIL, NAME, PYTHON, SCORE, LABEL], ids=lambda g: g["type"])
def test_each_kind_alone_becomes_one_evaluator(folder, monkeypatch, grader):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key")
    judge, text = made(folder, grader, f"from_{grader['type']}")
    assert "sk-not-a-real-key" not in text
    assert judge.config.model_dump(exclude_unset=True)
    if grader is PYTHON:
        assert judge.config.source == PYTHON["source"]
        assert '''"""It's''' in text or "'''odd" in text  # as it reads, not as an escaped line
    if grader is SCORE:
        assert judge.range == (0.0, 2.0)
        assert judge.config.input[0].role == "system"
        assert judge.config.body == {
            "top_p": 1,
            "reasoning_effort": "low",
            "max_tokens": None,
            "max_completion_tokens": 500,
        }


def test_all_kinds_together_make_one_readable_module(folder):
    graders = {"name": NAME, "email": EMAIL, "code": PYTHON, "tone": SCORE, "kind": LABEL}
    formula = "min(name, email) + 0.1 * sqrt(code) - tone ^ 2 * kind"
    multi = {"type": "multi", "graders": graders, "calculate_output": formula}
    text = translate(multi, name="all_of_them", origin="g.json")
    ast.parse(text)
    assert "from math import sqrt\n" in text
    assert "return min(name, email) + 0.1 * sqrt(code) - tone ** 2 * kind" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        ({"type": "bleurt"}, "grader.type: 'bleurt' is none of string_check"),
        ({"type": "endpoint", "url": "https://x.org"}, "use: openai_endpoint"),
        ({**EMAIL, "operation": "regex"}, "grader.operation: Input should be 'eq'"),
        ({**EMAIL, "input": "{{ answer }}"}, "grader.input: {{ answer }}: only item.<column>"),
        ({**EMAIL, "input": "{{sample.output_audio.data}}"}, "audio and images are not read"),
        ({**EMAIL, "input": None}, "grader.input: Input should be a valid string"),
        ({**EMAIL, "weight": 2}, "a string_check grader has no 'weight'"),
        ({**NAME, "evaluation_metric": "meteor"}, "meteor needs WordNet"),
        ({**NAME, "evaluation_metric": "cosine"}, "OpenAI's own embeddings"),
        ({**PYTHON, "source": "print(1)"}, "defines no function grade(sample, item)"),
        ({**SCORE, "range": [1, 1]}, "range must rise"),
        ({**SCORE, "sampling_params": {"top_k": 3}}, "'top_k' is none of"),
        (
            {**SCORE, "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "no images and no audio",
        ),
        ({**LABEL, "passing_labels": ["nice"]}, "not among the labels"),
        ({**MULTI, "graders": {}}, "an object of graders by name"),
        ({**MULTI, "graders": {"a b": EMAIL}}, "'a b' cannot be a name in a formula"),
        ({**MULTI, "graders": {"max": EMAIL}}, "'max' cannot be a name in a formula"),
        ({**MULTI, "graders": {"a": MULTI}}, "a multi grader inside another"),
        ({**MULTI, "graders": {"name": {**NAME, "input": 3}, "email": EMAIL}}, "grader.graders.name.input"),
        ({**MULTI, "calculate_output": "name + phone"}, "phone is no grader; there are name, email"),
        ({**MULTI, "calculate_output": "__import__('os').system('x')"}, "grader.calculate_output"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_with_its_place(grader, said):
    with pytest.raises(Refused) as caught:
        translate(grader, name="x", origin="g.json")
    assert said in str(caught.value)


@given(st.text(), st.text())
def test_no_text_in_the_json_becomes_code(text, title):
    hostile = {"type": "string_check", "name": title, "operation": "eq"}
    hostile |= {"input": text.replace("{{", ""), "reference": '"); import os  # """'}
    module = translate(hostile, name="x", origin=title + '"""')
    tree = ast.parse(module)
    kinds = [type(node) for node in tree.body]
    assert kinds == [ast.Expr, ast.ImportFrom, ast.Assign]
    call = tree.body[-1].value
    assert {k.arg: ast.literal_eval(k.value) for k in call.keywords}["input"] == hostile["input"]


@given(st.text())
def test_a_source_reads_back_as_itself(text):
    assert ast.literal_eval(block(text)) == text
    assert ast.literal_eval(literal(text, "    ")) == text


def test_a_job_with_a_grader_inside_is_read_too_and_anything_else_refused(folder):
    path = folder / "job.json"
    path.write_text(json.dumps({"method": {"type": "reinforcement", "reinforcement": {"grader": EMAIL}}}))
    assert read_grader(path) == EMAIL
    for text in ("", "[]", "{}", '{"grader": 3}'):
        path.write_text(text)
        with pytest.raises(Refused, match=r"cannot be read as JSON|holds no grader"):
            read_grader(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A card", "a_card"),
        ("2nd", "grader_2nd"),
        ("max", "max_grader"),
        ("", "g"),
        ("Maß", "ma"),
    ],
)
def test_a_grader_without_a_python_name_gets_one(folder, name, expected):
    assert name_for({"name": name}, folder / "g.json") == expected


def test_the_command_writes_the_module_once(folder):
    from rft.cli import app

    (folder / "grader.json").write_text(json.dumps({**MULTI, "name": "contact"}))
    run = CliRunner()
    done = run.invoke(app, ["evaluator", "import", "grader.json"])
    assert done.exit_code == 0, done.output
    assert "rft evaluator check ./contact.py:contact" in done.output
    assert resolve_evaluator(Use(use="./contact.py:contact"), folder).name == "multi"
    again = run.invoke(app, ["evaluator", "import", "grader.json"])
    assert again.exit_code != 0
