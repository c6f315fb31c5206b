"""The pytest plugin: fixtures, marks, golden cases. Loaded in every pytest run, so it imports nothing heavy.

    @pytest.mark.rft_evaluator("./evaluator.py:near")    on a module: its golden cases are tests, and the
                                                         fixture `evaluator` is that evaluator
    @pytest.mark.rft_eval(model="my-run", recipe="recipe.yaml", min_score=0.6)
                                                         on a test: the model's answers are scored first

Without a mark the fixture takes the evaluator from `--rft-evaluator`, else from `rft_evaluators` in pytest's
configuration; several make the test run once with each.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rft.errors import UserError
from rft.evaluator import Evaluator
from rft.testing import golden, models
from rft.testing.fake_api import FakeAPI

if TYPE_CHECKING:
    from rft.runs.comparison import Answers

_FIXTURE = "evaluator"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the fixture `evaluator` comes from when no mark says it."""
    told = "evaluator that the fixture `evaluator` is: a name, module:Class or ./file.py:Class"
    parser.getgroup("rft").addoption(
        "--rft-evaluator", action="append", default=[], metavar="NAME", help=f"{told}; may be repeated"
    )
    parser.addini("rft_evaluators", f"{told}; files start at the root folder", type="linelist", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marks known."""
    for line in (
        f"{golden.MARK}(*evaluators): which evaluator a test is about; on a module, its cases are tests",
        f"{models.MARK}(model, recipe, min_score, ...): hold a model to a score before the test's body runs",
    ):
        config.addinivalue_line("markers", line)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> list[golden.GoldenCase] | None:
    """Golden cases of the evaluators that a module's or a class's marks name."""
    if name != "pytestmark":
        return None
    named = golden.named_by(obj if isinstance(obj, list | tuple) else [obj])
    return list(golden.golden_items(collector, named)) or None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Several evaluators: the test runs once with each."""
    if _FIXTURE not in metafunc.fixturenames:
        return
    named, folder = _named(metafunc.definition)
    if len(named) > 1:
        try:
            found = [golden.find(one, folder) for one in named]
        except UserError as error:
            raise pytest.Collector.CollectError(str(error)) from error
        metafunc.parametrize(_FIXTURE, found, ids=[one.name for one in found], indirect=True)


@pytest.fixture
def evaluator(request: pytest.FixtureRequest) -> Evaluator:
    """The evaluator that the test is about: by mark, `--rft-evaluator`, or `rft_evaluators`."""
    if hasattr(request, "param"):
        return request.param
    named, folder = _named(request.node)
    if not named:
        raise pytest.UsageError(
            "which evaluator? Write pytestmark = pytest.mark.rft_evaluator('./evaluator.py:near'), pass "
            "--rft-evaluator NAME, or set rft_evaluators in pytest's configuration"
        )
    try:
        return golden.find(named[0], folder)
    except UserError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture
def fake_api() -> Iterator[FakeAPI]:
    """A fake API on loopback that answers, and misbehaves, as told; see `rft.testing.FakeAPI`."""
    with FakeAPI() as api:
        yield api


@pytest.fixture
def rft_answers(request: pytest.FixtureRequest) -> Answers:
    """What the model of the test's `rft_eval` mark answered, with scores."""
    found = models.measured(request.node)
    if found is None:
        raise pytest.UsageError("rft_answers needs the mark @pytest.mark.rft_eval(model=..., ...)")
    return found.answers


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Holds the model of an `rft_eval` mark to its score before the test's own body runs."""
    found = models.measured(pyfuncitem)
    if found is not None and found.missed:
        pytest.fail(found.missed, pytrace=False)
    return (yield)


def _named(node: pytest.Item) -> tuple[list[Any], Path]:
    """Which evaluators a test is about, and where their relative files start."""
    mark = node.get_closest_marker(golden.MARK)
    if mark is not None:
        return list(mark.args), node.path.parent
    if given := node.config.getoption("--rft-evaluator"):
        return given, Path.cwd()
    return node.config.getini("rft_evaluators"), node.config.rootpath
