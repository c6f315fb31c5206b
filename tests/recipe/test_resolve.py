"""Names by shape; one line when a name leads nowhere; the user's files never hide anything."""

import inspect
import multiprocessing
import subprocess
import sys

import pytest

from rft.environments.single_turn import SingleTurn
from rft.errors import RecipeError, ResolveError
from rft.evaluator import Evaluator, FunctionEvaluator
from rft.recipe.resolve import resolve_callable, resolve_environment, resolve_evaluator
from rft.recipe.schema import Use

GRADERS = """
from pydantic import BaseModel, ConfigDict
from rft import Evaluator, Environment, evaluator

@evaluator
def near(text, reference, tolerance=0.1):
    return 1.0

class Strict(Evaluator):
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        tolerance: float
        words: list[str] = []

class Broken(Evaluator):
    def __init__(self, **config):
        raise RuntimeError("no licence")

class Game(Environment):
    class Config(BaseModel):
        rounds: int = 3

made = Strict(tolerance=1)

def double(x):
    return 2 * x

number = 3
"""


@pytest.fixture(autouse=True)
def same_path_afterwards():
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ("toy_graders", "toy_bad", "helper_beside"):
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "graders.py").write_text(GRADERS)
    return tmp_path


def use(name, **options):
    return Use.model_validate({"use": name, "with": options})


def refusal(name, folder, **options):
    with pytest.raises(ResolveError) as caught:
        resolve_evaluator(use(name, **options), folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wrong_arguments(name, folder, **options):
    with pytest.raises(RecipeError) as caught:
        resolve_evaluator(use(name, **options), folder)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_class_in_a_file_beside_the_recipe_gets_its_arguments(folder):
    found = resolve_evaluator(use("./graders.py:Strict", tolerance=0.5), folder)
    assert isinstance(found, Evaluator) and found.config.tolerance == 0.5


def test_a_function_gets_its_arguments_bound(folder):
    found = resolve_evaluator(use("./graders.py:near", tolerance=0.5), folder)
    assert isinstance(found, FunctionEvaluator) and found.bound == {"tolerance": 0.5}
    assert resolve_evaluator(use("./graders.py:near"), folder).bound == {}  # the original is untouched


def test_a_ready_made_evaluator_takes_no_arguments(folder):
    assert resolve_evaluator(use("./graders.py:made"), folder).config.tolerance == 1
    assert "already made" in wrong_arguments("./graders.py:made", folder, tolerance=2)["evaluator.with"]


def test_wrong_arguments_come_out_together_under_their_dotted_path(folder):
    assert wrong_arguments("./graders.py:Strict", folder, tolerence=1, words=["a", 3]) == {
        "evaluator.with.tolerance": "required, but not given",
        "evaluator.with.tolerence": "unknown key; did you mean 'tolerance'?",
        "evaluator.with.words.1": "must be text",
    }
    assert wrong_arguments("./graders.py:near", folder, tolerence=1, reference=2, x=3) == {
        "evaluator.with.tolerence": "unknown key; did you mean 'tolerance'?",
        "evaluator.with.x": "unknown key",
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./graders.py:nearr", "has no 'nearr'; did you mean 'near'?"),
        ("./grader.py:near", "no file {folder}/grader.py; did you mean 'graders.py'?"),
        ("./graders.py:double", "is the function double, not an Evaluator; put @evaluator above it"),
        ("./graders.py:number", "is the int 3, not an Evaluator"),
        ("./graders.py:Game", "is the class Game, not an Evaluator"),
        ("./graders.py:Broken", "cannot be made: RuntimeError: no licence ({folder}/graders.py:17)"),
        ("no_such_module:X", "no module 'no_such_module'"),
        ("json.no_such:X", "no module 'json.no_such'"),
        ("no_such_name", "no evaluator is called 'no_such_name'"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_in_one_line(folder, name, said):
    assert said.format(folder=folder) in refusal(name, folder)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package' ({file}:1)"),
        ("\nx = (\n", "SyntaxError: '(' was never closed ({file}:2)"),
        ("def f():\n    1 / 0\nf()\n", "ZeroDivisionError: division by zero ({file}:2)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 ({file}:2)"),
        ("import yaml\n\nyaml.safe_load('[')\n", "({file}:3)"),
    ],
)
def test_a_file_that_does_not_import_is_told_with_its_last_frame(tmp_path, source, said):
    file = tmp_path / "bad.py"
    file.write_text(source)
    assert said.format(file=file) in refusal("./bad.py:X", tmp_path)


def test_two_files_of_one_name_do_not_clash(tmp_path):
    for name, value in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.py").write_text(f"def make():\n    return {value}\n")
    one, two = (resolve_callable("./rows.py:make", tmp_path / name) for name in ("one", "two"))
    assert (one(), two()) == (1, 2)
    assert resolve_callable(f"{tmp_path}/one/rows.py:make") is one


def test_a_function_from_a_file_works_in_a_fresh_process(folder):
    double = resolve_callable("./graders.py:double", folder)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(double, [1, 2]) == [2, 4]


def test_the_source_of_a_class_from_a_file_can_be_read(folder):
    found = resolve_evaluator(use("./graders.py:Strict", tolerance=1), folder)
    assert inspect.getsource(type(found)).startswith("class Strict(Evaluator):")


def test_folders_are_appended_so_that_nothing_installed_is_hidden(tmp_path):
    (tmp_path / "yaml.py").write_text("raise RuntimeError('hidden')")
    (tmp_path / "helper_beside.py").write_text("VALUE = 7")
    (tmp_path / "grade.py").write_text("import yaml, helper_beside\ndef value(): return helper_beside.VALUE")
    before = list(sys.path)
    assert resolve_callable("./grade.py:value", tmp_path)() == 7
    assert sys.path[: len(before)] == before and str(tmp_path) in sys.path[len(before) :]


def test_an_entry_point_is_found_by_its_bare_name(tmp_path):
    metadata = tmp_path / "toy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[rft.evaluators]\ntoy_near = toy_graders:near\ntoy_gone = toy_graders:gone\ntoy_bad = toy_bad:x\n"
    )
    (tmp_path / "toy_graders.py").write_text(GRADERS)
    (tmp_path / "toy_bad.py").write_text("1 / 0")
    sys.path.append(str(tmp_path))
    assert resolve_evaluator(use("toy_near")).name == "near"
    assert "did you mean toy_near" in refusal("toy_neer", None)
    assert "has no attribute 'gone'" in refusal("toy_gone", None)
    assert "ZeroDivisionError" in refusal("toy_bad", None)


def test_an_unknown_name_says_which_package_was_really_loaded():
    import rft.evaluators

    assert str(rft.evaluators.__file__) in refusal("zzzzzz", None)


def test_an_environment_is_a_factory_of_fresh_ones(folder):
    make = resolve_environment(use("single_turn"))
    assert isinstance(make(), SingleTurn) and make() is not make()
    assert resolve_environment(use("./graders.py:Game", rounds=5), folder)().config.rounds == 5


def test_an_environments_arguments_are_checked_before_the_first_rollout(folder):
    with pytest.raises(RecipeError) as caught:
        resolve_environment(use("./graders.py:Game", rounds="many"), folder)
    assert [problem.path for problem in caught.value.problems] == ["environment.with.rounds"]
    with pytest.raises(ResolveError, match="not a subclass of Environment"):
        resolve_environment(use("./graders.py:Strict"), folder)


def test_a_function_needs_a_shape_that_names_one(folder):
    with pytest.raises(ResolveError, match=r"write module:function or \./file.py:function"):
        resolve_callable("double", folder)
    with pytest.raises(ResolveError, match="cannot be called"):
        resolve_callable("./graders.py:number", folder)


def test_resolving_needs_no_torch():
    code = "import sys, rft.recipe.resolve, rft.recipe.load; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
