"""A user's Python file as a module, importable under a name of its own in every process.

`rft.recipe.userfile.graders_<hex of the path>` is the file `/.../graders.py`. The path is part of the name,
so two files called alike do not clash, and because importing the name imports this package first, a function
from such a file can be pickled and found again in a worker process.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

__path__: list[str] = []  # makes this module a package to the import system; the finder below fills it


def module_name(file: str | Path) -> str:
    """The import name of a Python file."""
    path = os.path.abspath(file)
    stem = re.sub(r"\W", "_", Path(path).stem)
    return f"{__name__}.{stem}_{os.fsencode(path).hex()}"


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{__name__}."):
            return None
        file = os.fsdecode(bytes.fromhex(fullname.rpartition("_")[2]))
        folder = os.path.dirname(file)
        if (
            folder not in sys.path
        ):  # appended, so that a neighbour of the file never hides an installed package
            sys.path.append(folder)
        return importlib.util.spec_from_file_location(fullname, file)


sys.meta_path.append(_Finder())
