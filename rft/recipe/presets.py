"""Defaults by name: `preset: quick` lays `presets/quick.yaml` under a recipe.

A preset is a partial recipe whose first line is a comment that says what it is for. There is no other
registry: a file in the folder is a preset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rft.recipe.document import read_yaml

_FOLDER = Path(__file__).parent / "presets"


def list_presets() -> list[tuple[str, str]]:
    """(name, summary) of every preset, by name."""
    return [(path.stem, summary(path)) for path in sorted(_FOLDER.glob("*.yaml"))]


def read_preset(name: str) -> dict[str, Any] | None:
    """A preset's keys; None when there is no such preset."""
    if name not in {known for known, _ in list_presets()}:
        return None
    data: dict[str, Any] = read_yaml((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")).data
    return data


def summary(path: Path) -> str:
    """The comment that a recipe or preset opens with; empty when it opens with none."""
    first_line = path.read_text(encoding="utf-8").partition("\n")[0]
    return first_line.removeprefix("#").strip() if first_line.startswith("#") else ""
