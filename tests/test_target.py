from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rft.errors import ModelError, RunError
from rft.runs.checkpoint import save_checkpoint
from rft.runs.folder import RunFolder
from rft.target import Target, resolve_target


@pytest.fixture
def run(tmp_path, tiny_model_dir) -> RunFolder:
    """A run of a recipe called "sort" with two checkpoints of the tiny model."""
    folder = RunFolder.create(tmp_path / "runs", "sort", "name: sort\n")
    for step in (5, 10):

        def write_model(to: Path, step: int = step) -> None:
            shutil.copytree(tiny_model_dir, to, dirs_exist_ok=True)
            (to / "rft.json").write_text(json.dumps({"weight_version": step, "base": "packaged:tiny"}))

        save_checkpoint(folder, step, write_model, {"step": step}, keep=2)
    return folder


def adapter(folder: Path, **about: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 12, "base_model_name_or_path": None}))
    if about:
        (folder / "rft.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize("way", ["name", "id", "path"])
def test_a_run_means_its_newest_checkpoint(run, tmp_path, way):
    target = {"name": run.name, "id": run.id, "path": str(run.path)}[way]
    found = resolve_target(target, tmp_path / "runs")
    assert found == Target("sort", run.checkpoints_path / "step-000010", version=10)
    assert found.adapter_rank is None


def test_a_damaged_newest_checkpoint_is_passed_over(run, tmp_path):
    (run.checkpoints_path / "step-000010" / "model.safetensors").write_bytes(b"cut")
    assert resolve_target("sort", tmp_path / "runs").version == 5


def test_a_checkpoint_by_its_path(run, tmp_path):
    found = resolve_target(str(run.checkpoints_path / "step-000005"), tmp_path / "runs")
    assert (found.name, found.version) == ("sort", 5)


def test_a_model_folder_is_version_0_under_its_own_name(tiny_model_dir):
    assert resolve_target(str(tiny_model_dir)) == Target("tiny", tiny_model_dir)


def test_a_packaged_model(monkeypatch, tmp_path):
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    assert resolve_target("packaged:tiny", tmp_path) == Target("tiny", tmp_path / "cache" / "tiny")


def test_an_adapter_comes_with_its_base(tmp_path, tiny_model_dir):
    folder = adapter(tmp_path / "mine", weight_version=7, base=str(tiny_model_dir))
    found = resolve_target(str(folder))
    assert found == Target("mine", tiny_model_dir, folder, 7)
    assert found.adapter_rank == 12


def test_an_adapter_without_a_base_says_what_to_add(tmp_path):
    with pytest.raises(ModelError, match="names no base model; add rft.json with `base`"):
        resolve_target(str(adapter(tmp_path / "mine")))


def test_an_unreadable_note_is_a_user_error(tmp_path):
    folder = adapter(tmp_path / "mine")
    (folder / "rft.json").write_text("{")
    with pytest.raises(ModelError, match=r"rft\.json cannot be read"):
        resolve_target(str(folder))


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    RunFolder.create(tmp_path, "early", "name: early\n")
    with pytest.raises(RunError, match="no checkpoint yet"):
        resolve_target("early", tmp_path)


def test_what_is_neither_says_both(run, tmp_path):
    with pytest.raises(ModelError, match="neither a run .*did you mean 'sort'.* nor a model"):
        resolve_target("srt", tmp_path / "runs")
