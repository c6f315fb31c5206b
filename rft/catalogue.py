"""The evaluators that are installed, ours and everybody's: `rft evaluator list`."""

from __future__ import annotations

import ast
import inspect
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any


def installed() -> list[dict[str, str]]:
    """Every installed evaluator: its name, what it judges, the task fields it reads, what is missing."""
    rows = []
    for point in sorted(entry_points(group="rft.evaluators"), key=lambda point: point.name):
        row = {"evaluator": point.name, "judges": "", "reads": "", "missing": ""}
        try:
            found = point.load()
        except Exception as error:  # somebody's package may be broken in any way; the others are still listed
            row["missing"] = f"cannot be imported: {type(error).__name__}: {error}"
        else:
            row["judges"] = _first_sentence(found)
            row["reads"] = ", ".join(sorted(found.requires))
            row["missing"] = ", ".join(_missing(found))
        rows.append(row)
    return rows


def _missing(found: Any) -> list[str]:
    """Packages that the evaluator's module imports, anywhere in it, and that are not installed."""
    module = inspect.getmodule(found if isinstance(found, type) else type(found))
    try:
        tree = ast.parse(inspect.getsource(module)) if module else ast.Module([], [])
    except (OSError, TypeError):  # no source to read
        return []
    named = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named.add(node.module.partition(".")[0])
    return sorted(name for name in named - sys.stdlib_module_names if find_spec(name) is None)


def _first_sentence(found: Any) -> str:
    told = " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split())
    return told.partition(". ")[0].rstrip(".:")
