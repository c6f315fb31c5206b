"""Files to start from, which work as they are: `rft init`, `rft evaluator new`.

They are ordinary files under `templates/`; `{{name}}` in them becomes the name that was given.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from rft.errors import UserError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def init(folder: Path, name: str) -> list[Path]:
    """Writes the files of a new task and returns their paths.

    Args:
        folder: where to; made when it does not exist. Files already there are never overwritten.
        name: the recipe's name, and that of its runs: letters, digits, - and _.

    Raises UserError for a name that will not do, a file that is in the way, a folder that cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"a task's name starts with a letter and has letters, digits, - and _ only, got {name!r}"
        )
    templates = files("rft").joinpath("templates", "init")
    return _write(folder, {one.name: one for one in templates.iterdir() if one.is_file()}, name)


def new_evaluator(folder: Path, name: str) -> list[Path]:
    """Writes NAME.py, an evaluator with golden cases, and test_NAME.py; returns their paths.

    Args:
        folder: where to; made when it does not exist. Files already there are never overwritten.
        name: of the evaluator and its module, so a Python name.

    Raises UserError for a name that will not do, a file that is in the way, a folder that cannot be written.
    """
    _check_module_name(name)
    templates = files("rft").joinpath("templates", "evaluator")
    named = {"evaluator.py": f"{name}.py", "test_evaluator.py": f"test_{name}.py"}
    return _write(folder, {to: templates.joinpath(template) for template, to in named.items()}, name)


def write_module(folder: Path, name: str, text: str) -> Path:
    """Writes an evaluator's module as NAME.py and returns its path. Raises UserError like `new_evaluator`."""
    _check_module_name(name)
    path = folder / f"{name}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise UserError(
            f"{path} is there already; choose another name or folder, nothing was written"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    return path


def _check_module_name(name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or name in sys.stdlib_module_names or name == "rft":
        raise UserError(f"an evaluator's name is a Python name that is not taken, like polite, got {name!r}")


def _write(folder: Path, templates: Mapping[str, Traversable], name: str) -> list[Path]:
    """Templates by the file's name to be."""
    taken = [file for file in sorted(templates) if (folder / file).exists()]
    if taken:
        raise UserError(
            f"{folder} already has {', '.join(taken)}; choose another folder, nothing was written"
        )
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(templates):
            path = folder / file
            with path.open("x", encoding="utf-8") as out:
                out.write(templates[file].read_text(encoding="utf-8").replace("{{name}}", name))
            written.append(path)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error
    return written
