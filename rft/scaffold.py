"""`rft init`: a folder with a recipe, an evaluator, ten tasks and a test, all of which work as they are.

The files are ordinary files under `templates/init/`; `{{name}}` in them becomes the task's name.
"""

from __future__ import annotations

import re
from importlib.resources import files
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
    templates = sorted(
        (t for t in files("rft").joinpath("templates", "init").iterdir() if t.is_file()), key=str
    )
    taken = [template.name for template in templates if (folder / template.name).exists()]
    if taken:
        raise UserError(
            f"{folder} already has {', '.join(taken)}; choose another folder, nothing was written"
        )
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for template in templates:
            path = folder / template.name
            with path.open("x", encoding="utf-8") as file:
                file.write(template.read_text(encoding="utf-8").replace("{{name}}", name))
            written.append(path)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error
    return written
