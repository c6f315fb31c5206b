"""Where the other library is not installed, that is said in one line, before anything is scored."""

from __future__ import annotations

import importlib.util

import pytest

from rft import score
from rft.adapters.eval_protocol import EvalProtocol
from rft.adapters.inspect_ai import Inspect
from rft.adapters.verifiers import Verifiers
from rft.errors import ResolveError, UserError
from rft.recipe.load import load_recipe
from rft.recipe.resolve import resolve_evaluator


async def scorer(state, target):
    return None


@pytest.mark.parametrize(
    ("judge", "package"),
    [(EvalProtocol(function=lambda row: row), "eval-protocol"), (Inspect(function=scorer), "inspect-ai")],
)
def test_a_missing_package_is_named(judge, package):
    if importlib.util.find_spec(package.replace("-", "_")):
        pytest.skip(f"{package} is installed here")
    with pytest.raises(UserError, match=f"pip install {package}"):
        score(judge, prompt="?", completion="!", reference="!")


@pytest.mark.parametrize("kind", [Verifiers, Inspect])
def test_a_function_of_another_library_is_refused(kind):
    def reward(completions, solution):
        return [1.0]

    with pytest.raises(ResolveError, match=r"is needed|cannot make a scorer"):
        kind(function=reward)


def test_a_recipe_names_the_function_by_a_file_beside_it(tmp_path, monkeypatch):
    (tmp_path / "rewards.py").write_text(
        "def right(completions, solution, **kwargs):\n"
        "    return [float(c[0]['content'] == s) for c, s in zip(completions, solution)]\n"
    )
    (tmp_path / "r.yaml").write_text(
        "name: t\nmodel: {source: tiny}\ndata: {train: {source: ./d.jsonl}}\n"
        "evaluator: {use: trl, with: {function: './rewards.py:right', reference: solution}}\n"
    )
    monkeypatch.chdir("/")
    judge = resolve_evaluator(load_recipe(tmp_path / "r.yaml").evaluator)
    assert judge.requires == {"reference"}
    assert score(judge, prompt="?", completion="4", reference="4").value == 1.0
