"""The wheel holds all of it, under names of its own, and works without torch where torch is not needed."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {
    "rft": "rft",
    "evaluators": "rft/evaluators",
    "environments": "rft/environments",
    "recipes": "rft/_recipes",
}
NOT_SHIPPED = {"__pycache__", ".DS_Store"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """A wheel built offline from a copy of what is shipped: building in place would litter the tree."""
    source = tmp_path_factory.mktemp("source")
    for folder in SHIPPED:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist")]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (source / "dist").glob("rft_loop-*.whl")
    return zipfile.ZipFile(file)


@pytest.fixture(scope="session")
def unpacked(wheel, tmp_path_factory) -> Path:
    """The wheel's files in an otherwise empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    wheel.extractall(folder)
    return folder


@pytest.mark.parametrize("folder", SHIPPED)
def test_every_source_file_is_in_the_wheel(wheel, folder):
    expected = {
        f"{SHIPPED[folder]}/{path.relative_to(ROOT / folder).as_posix()}"
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not NOT_SHIPPED & set(path.parts) and path.suffix != ".pyc"
    }
    assert expected - set(wheel.namelist()) == set(), "missing in [tool.setuptools] packages or package-data"


def test_nothing_generic_lands_in_site_packages(wheel):
    assert {name.partition("/")[0] for name in wheel.namelist()} == {"rft", "rft_loop-0.1.0.dist-info"}


def test_the_wheel_carries_its_licence_and_declares_the_command(wheel):
    info = "rft_loop-0.1.0.dist-info"
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()
    assert "License-Expression: Apache-2.0" in wheel.read(f"{info}/METADATA").decode()
    entries = configparser.ConfigParser()
    entries.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep case
    entries.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(entries["console_scripts"]) == {"rft": "rft.cli:main"}


def test_every_declared_evaluator_and_environment_is_there(unpacked):
    code = """
import importlib.metadata, sys
found = 0
for distribution in importlib.metadata.distributions(path=[sys.path[0]]):
    for entry in distribution.entry_points:
        if entry.group in ("rft.evaluators", "rft.environments"):
            entry.load()
            found += 1
print(found)
"""
    assert int(run_in(unpacked, code)) >= 1


def test_the_extras_are_the_promised_ones(wheel):
    metadata = wheel.read("rft_loop-0.1.0.dist-info/METADATA").decode()
    extras = {line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Provides-Extra: ")}
    assert {"cpu", "gpu", "text", "math", "envs", "dev"} <= extras


def test_unpacked_it_imports_without_torch_and_finds_its_recipes(unpacked):
    code = """
import sys, rft, rft.evaluators, rft.environments, rft._recipes
from importlib.resources import files
assert "torch" not in sys.modules and "vllm" not in sys.modules
for module in (rft, rft.evaluators, rft.environments, rft._recipes):
    assert module.__file__.startswith(sys.path[0]), module.__file__
print(*sorted(entry.name for entry in files("rft._recipes").iterdir() if entry.name.endswith(".yaml")))
"""
    recipes = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))
    assert run_in(unpacked, code).split() == recipes


def run_in(folder: Path, code: str) -> str:
    """Output of `code` in a fresh process for which `folder` comes first on the path."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
