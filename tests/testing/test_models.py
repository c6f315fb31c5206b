"""`rft_eval`: a model is held to a score before the test's own body runs."""

from __future__ import annotations

import json

import pytest
import scipy.stats  # noqa: F401  (numpy cannot be imported twice, and pytester forgets what a run imported)

import rft.evaluate  # noqa: F401  (likewise)
from rft.testing import FakeAPI, Reply
from rft.testing.fake_api import chat

pytest_plugins = ["pytester"]

GRADER = """
from rft import EvaluatorError, Score, evaluator

@evaluator
def exact(text, reference):
    if text == "down":
        raise EvaluatorError("server", "HTTP 503")
    return Score(float(text == reference), reason=f"{text} is not {reference}")
"""


@pytest.fixture
def user(pytester, fake_api):
    """A user's folder: ten tasks `0+1` to `9+1`, a grader, and a fake endpoint that knows the first six."""
    rows = [{"prompt": f"{n}+1", "reference": str(n + 1), "id": str(n)} for n in range(10)]
    pytester.path.joinpath("heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pytester.makepyfile(grader=GRADER)
    pytester.makeini("[pytest]\naddopts = --strict-markers\nasyncio_default_fixture_loop_scope = function\n")
    fake_api.reply(chat(knowing(6)))
    return pytester


def knowing(known: int):
    """What a model says that is right up to a number."""

    def answer(messages) -> str:
        asked = int(messages[-1]["content"].partition("+")[0])
        return str(asked + 1) if asked < known else "no idea"

    return answer


def write(user, fake_api: FakeAPI, body: str = "def test_it(): pass", **options) -> None:
    given = {"model": f"{fake_api.url}/v1", "data": "heldout.jsonl", "evaluator": "./grader.py:exact"}
    arguments = ", ".join(f"{name}={value!r}" for name, value in {**given, **options}.items())
    user.makepyfile(test_it=f"import pytest\n\n@pytest.mark.rft_eval({arguments})\n{body}\n")


def test_a_model_that_is_good_enough_passes_and_its_body_runs(user, fake_api):
    body = (
        "def test_it(rft_answers): assert rft_answers.estimate.mean == 0.6 and len(rft_answers.groups) == 10"
    )
    write(user, fake_api, body, min_score=0.6)
    user.runpytest_inprocess().assert_outcomes(passed=1)


def test_one_that_is_not_fails_with_its_interval_and_its_worst_answers(user, fake_api):
    write(user, fake_api, "def test_it(): raise RuntimeError('the body ran')", min_score=0.7)
    result = user.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "http://127.0.0.1:*/v1, judged by exact on 10 tasks: mean 0.600 [[]0.231, 0.969] is below 0.7",
            "worst answers:",
            "  0     'no idea'  (no idea is not 7)",
            "    asked: '6+1', reference: '7'",
        ]
    )
    assert "Traceback" not in result.stdout.str() and "the body ran" not in result.stdout.str()


def test_the_lower_bound_asks_for_certainty(user, fake_api):
    write(user, fake_api, min_score=0.5, bound="low")
    result = user.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*lower end of the interval is below 0.5*take more tasks to tell*"])
    write(user, fake_api, min_score=0.2, bound="low")
    user.runpytest_inprocess().assert_outcomes(passed=1)


def test_a_broken_evaluator_does_not_make_a_model_pass(user, fake_api):
    fake_api.reply(chat(lambda messages: "down" if messages[-1]["content"] > "3" else knowing(9)(messages)))
    write(user, fake_api, min_score=0.9)
    result = user.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*7 of the last 10 evaluations failed*", "failed evaluations*: server 7"])


def test_equal_marks_are_measured_once(user, fake_api):
    write(
        user, fake_api, "class TestIt:\n    def test_a(self): pass\n    def test_b(self): pass", min_score=0.5
    )
    user.runpytest_inprocess().assert_outcomes(passed=2)
    assert sum(request.method == "POST" for request in fake_api.requests) == 10


def test_a_recipe_says_what_is_asked_and_who_judges(user, fake_api):
    user.path.joinpath("plus.yaml").write_text(
        "model: owner/never-fetched\nevaluator: ./grader.py:exact\n"
        "data: {train: nothing-there.jsonl, eval: heldout.jsonl}\neval: {tasks: 4}\n"
    )
    options = "recipe='plus.yaml', min_score=0.1, samples=2, temperature=1"
    mark = f"@pytest.mark.rft_eval('{fake_api.url}/v1', {options})"
    user.makepyfile(test_it=f"import pytest\n\n{mark}\ndef test_it(rft_answers): assert rft_answers.groups")
    user.runpytest_inprocess().assert_outcomes(passed=1)
    assert sum(request.method == "POST" for request in fake_api.requests) == 4 * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"evaluator": None}, "*give a recipe, or both data and evaluator*"),
        ({"recipe": "plus.yaml"}, "*are the recipe's; leave them out*"),
        ({"evaluator": ["exact"]}, "*evaluator is named as in a recipe, got [[]'exact']*"),
        ({"bound": "upper"}, '*bound must be "mean" or "low"*'),
        ({"min_scor": 1}, "*unexpected keyword argument 'min_scor'*"),
        ({"data": "missing.jsonl"}, "*could not be measured: no file */missing.jsonl*"),
        ({"evaluator": "exactt"}, "*could not be measured: no evaluator is called 'exactt'*"),
        (
            {"model": "http://127.0.0.1:1/v1"},
            "*measured: http://127.0.0.1:1/v1 does not answer*",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_line(user, fake_api, options, said):
    write(user, fake_api, min_score=0.5, **options)
    result = user.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said])
    assert "During handling" not in result.stdout.str() and "Traceback" not in result.stdout.str()


def test_the_answers_need_a_mark(user):
    user.makepyfile(test_it="def test_it(rft_answers): pass")
    result = user.runpytest_inprocess()
    result.stdout.fnmatch_lines(["*rft_answers needs the mark @pytest.mark.rft_eval*"])


def test_an_endpoint_that_is_down_is_no_score_of_zero(user, fake_api):
    answer = chat("no idea")
    fake_api.reply(lambda request: answer(request) if request.method == "GET" else Reply({"no": 1}, 400))
    write(user, fake_api, min_score=0.0)
    result = user.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*nothing was scored*", "failed evaluations*: bad_response 10"])
