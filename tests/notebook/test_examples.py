"""The notebooks in examples/ run from top to bottom, as a reader runs them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
DOWNLOADED = "packaged:smollm2-135m-instruct"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a notebook with the random tiny model in place of one that would be fetched."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the lessons write their files
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def run(name: str) -> Any:
        (path,) = [path for path in NOTEBOOKS if path.name.startswith(name)]
        text = path.read_text(encoding="utf-8").replace(DOWNLOADED, "packaged:tiny")
        notebook = nbformat.reads(text, as_version=4)
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
        return notebook

    return run


def said(notebook: Any, start: str) -> str:
    """Everything that the cell which begins so showed, as text."""
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith(start)]
    return "".join(out.get("text") or str(out.get("data", "")) for out in cell.outputs)


def test_there_are_notebooks_and_they_are_stored_without_outputs():
    assert [path.name[:2] for path in NOTEBOOKS] == ["05", "06"]
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)


def test_lesson_5_writes_a_reward_and_checks_it(run, tmp_path):
    notebook = run("05")
    assert '<div class="rft">' in said(notebook, "import grader")
    assert "<b>right</b> → <b>brief_and_right</b>" in said(notebook, "import importlib")
    (folder,) = tmp_path.glob("rft-lesson-*")
    assert (folder / "brief_and_right.jsonl").read_text().count("\n") == 4
    assert "4 passed" in said(notebook, "!python -m pytest")
    assert "brief_and_right: " in said(notebook, "!rft evaluator check")
    assert "no mistakes found" in said(notebook, "!rft recipe check")


def test_lesson_6_finds_out_what_is_wrong_with_four_evaluators(run):
    notebook = run("06")
    assert "all scores equal: no gradient" in said(notebook, "from rft.evaluators import Constant")
    assert "scores rise with more length" in said(notebook, "from rich import print")
    assert "2 of 18 answers are pushed another way" in said(notebook, "from rft.notebook import diff")
    assert "judge: fail" in said(notebook, 'show(examine(judge, material, stages=["adversarial"]))')
    assert "Weighted: pass" in said(notebook, "from rft.scoring.compose")
    assert "masked" not in said(notebook, "talk = chat(").partition("</style>")[2]
    assert "3 masked" in said(notebook, "def only_short")
    assert "more often long ones" in said(notebook, 'show(examine(judge, material, stages=["shortcuts"]))')
