"""The pytest plugin, as a user's pytest sees it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

EVALUATOR = """
from pydantic import BaseModel
from rft import Case, Evaluator, Score, evaluator

@evaluator(cases=[
    Case("Capital of France?", "Paris", reference="Paris", expect=1.0),
    Case("Capital of France?", "It is Paris.", reference="Paris", expect=(0.4, 0.6)),
    Case("Capital of France?", "", reference="Paris", expect="unscored"),
])
def brief(text, reference):
    if not text:
        return Score.skip("nothing said")
    return 1.0 if text == reference else 0.5 * (reference in text)

class FromFile(Evaluator):
    class Config(BaseModel):
        factor: float = 1.0

    cases = "from_file.jsonl"
    setups = 0

    async def setup(self):
        type(self).setups += 1

    async def evaluate(self, rollout):
        return Score(self.config.factor * len(rollout.text) / 10, reason=f"setup {self.setups}")
"""

INI = """[pytest]
addopts = --strict-markers --strict-config
asyncio_default_fixture_loop_scope = function
"""

CASES = """
{"prompt": "Talk.", "completion": "12345", "expect": 0.5}
{"prompt": "Talk.", "completion": "12345", "expect": 1.0, "config": {"factor": 2.0}}
{"prompt": "Talk.", "completion": ["123", "12", "1"], "expect": "ranked"}
{"prompt": "Talk.", "completion": ["1", "12"], "expect": "ranked", "reference": "none"}
"""


@pytest.fixture
def user(pytester):
    """A user's folder with an evaluator in it; pytest runs there with this plugin."""
    pytester.makepyfile(grader=EVALUATOR)
    pytester.path.joinpath("from_file.jsonl").write_text(CASES)
    pytester.makeini(INI)
    return pytester


def test_a_mark_on_the_module_makes_golden_cases_tests(user):
    user.makepyfile(test_it="import pytest\npytestmark = pytest.mark.rft_evaluator('./grader.py:brief')\n")
    result = user.runpytest_inprocess("-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["*test_it.py::golden[[]brief-0-Paris] PASSED*", "*test_it.py::golden[[]brief-2-blank] PASSED*"]
    )


def test_cases_in_a_file_are_the_same_cases_and_one_that_does_not_hold_shows_everything(user):
    user.makepyfile(
        test_it="import pytest\npytestmark = [pytest.mark.rft_evaluator('./grader.py:FromFile')]\n"
    )
    result = user.runpytest_inprocess()
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*golden[[]FromFile-3-1_12]*",
            "FromFile: expected the answers in this order, best first, got",
            "  0.1   '1'  (setup 2)",  # one for the defaults, one for the case with options
            "  0.2   '12'  (setup 2)",
            "prompt: 'Talk.'",
            "reference: 'none'",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_cases_are_selected_like_any_test(user):
    user.makepyfile(test_it="import pytest\npytestmark = pytest.mark.rft_evaluator('./grader.py:brief')\n")
    user.runpytest_inprocess("-k", "It_is").assert_outcomes(passed=1, deselected=2)
    user.runpytest_inprocess("test_it.py::golden[brief-0-Paris]").assert_outcomes(passed=1)


def test_a_mark_on_a_class_is_about_that_class(user):
    user.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.rft_evaluator("./grader.py:brief")
        class TestBrief:
            def test_it_is_there(self, evaluator):
                assert evaluator.name == "brief"
        """
    )
    result = user.runpytest_inprocess("-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*test_it.py::TestBrief::golden[[]brief-0-Paris] PASSED*"])


def test_the_fixture_takes_its_evaluator_from_the_nearest_mark_the_option_or_the_configuration(user):
    user.makepyfile(
        test_it="""
        import pytest

        def test_default(evaluator):
            print("default", evaluator.name)

        @pytest.mark.rft_evaluator("includes")
        def test_marked(evaluator):
            print("marked", evaluator.name)

        @pytest.mark.rft_evaluator({"use": "./grader.py:FromFile", "with": {"factor": 3}})
        def test_configured(evaluator):
            print("configured", evaluator.config.factor)
        """
    )
    user.makeini(f"{INI}rft_evaluators = exact\n")
    result = user.runpytest_inprocess("-s")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*default exact*", "*marked includes*", "*configured 3.0*"])
    result = user.runpytest_inprocess("-s", "--rft-evaluator", "./grader.py:brief")
    result.stdout.fnmatch_lines(["*default brief*", "*marked includes*"])


def test_several_evaluators_each_get_the_test(user):
    user.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.rft_evaluator("grader:brief", {"use": "./grader.py:FromFile"}, "exact")
        def test_all(evaluator):
            assert evaluator.name
        """
    )
    result = user.runpytest_inprocess("-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_all[[]brief]*", "*test_all[[]FromFile]*", "*test_all[[]exact]*"])


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("'./grader.py:breif'", "*has no 'breif'; did you mean 'brief'?*"),
        ("3", "*rft_evaluator takes names as a recipe does*got 3*"),
        ("'exact', 'exactt'", "*no evaluator is called 'exactt'; did you mean exact*"),
    ],
)
def test_an_evaluator_that_cannot_be_found_is_one_line(user, named, said):
    mark = f"pytestmark = pytest.mark.rft_evaluator({named})"
    user.makepyfile(test_it=f"import pytest\n{mark}\ndef test_it(evaluator): pass\n")
    result = user.runpytest_inprocess()
    result.stdout.fnmatch_lines([said])
    assert result.ret != 0 and "Traceback" not in result.stdout.str()


def test_without_a_name_the_fixture_says_how_to_give_one(user):
    user.makepyfile(test_it="def test_it(evaluator): pass\n")
    result = user.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*which evaluator? Write pytestmark = pytest.mark.rft_evaluator*"])


def test_a_users_own_fixture_of_the_same_name_wins(user):
    user.makepyfile(
        test_it="""
        import pytest

        @pytest.fixture
        def evaluator():
            return "mine"

        def test_it(evaluator):
            assert evaluator == "mine"
        """
    )
    user.runpytest_inprocess().assert_outcomes(passed=1)


def test_the_fake_api_is_a_fixture(user):
    user.makepyfile(
        test_it="""
        import httpx

        def test_it(fake_api):
            fake_api.reply({"score": 0.25})
            assert httpx.get(fake_api.url).json() == {"score": 0.25}
        """
    )
    user.runpytest_inprocess().assert_outcomes(passed=1)


def test_the_plugin_is_cheap_to_load():
    code = "import rft.testing.plugin, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "vllm", "transformers", "datasets", "pyarrow", "numpy", "scipy", "httpx", "rich"}
    assert heavy & set(done.stdout.split()) == set()
