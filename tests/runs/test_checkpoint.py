import errno
import os
import shutil
import subprocess

import pytest

from rft.errors import RunError
from rft.runs import checkpoint as checkpoint_module
from rft.runs.checkpoint import best, latest, read_trainer_state, save_checkpoint, verify
from rft.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path, "sort", "")


def model(text="weights"):
    def write(folder):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(text)

    return write


def names(run):
    return sorted(path.name for path in run.checkpoints_path.iterdir())


def test_a_checkpoint_is_a_model_folder_with_a_trainer_folder_inside(run):
    def optimizer(folder):
        (folder / "optimizer.pt").write_bytes(b"moments")

    path = save_checkpoint(run, 12, model(), {"step": 12, "cursor": [1, 2]}, keep=2, write_trainer=optimizer)
    assert path == run.checkpoints_path / "step-000012"
    assert sorted(item.name for item in path.iterdir()) == ["config.json", "model.safetensors", "trainer"]
    assert (path / "trainer" / "optimizer.pt").read_bytes() == b"moments"
    assert read_trainer_state(path) == {"step": 12, "cursor": [1, 2]}
    verify(path)
    assert latest(run) == path


def test_only_the_newest_are_kept(run):
    for step in (1, 2, 3):
        save_checkpoint(run, step, model(), {}, keep=2)
    assert names(run) == ["step-000002", "step-000003"]


def test_the_best_are_kept_besides_and_named(run):
    assert best(run) is None
    for step, heldout in ((1, 0.5), (2, 0.7), (3, None), (4, 0.7), (5, 0.1)):
        save_checkpoint(run, step, model(), {"heldout": heldout}, keep=1, keep_best=1)
    assert names(run) == ["step-000002", "step-000005"]
    assert best(run) == (run.checkpoints_path / "step-000002", 0.7)


def test_what_is_written_from_may_change_before_the_hashing(run):
    told = []

    def has_read():
        told.append(sorted(path.name for path in run.checkpoints_path.glob(".step-*/trainer/*")))

    save_checkpoint(
        run, 1, model(), {}, keep=1, write_trainer=lambda f: (f / "a.pt").touch(), has_read=has_read
    )
    assert told == [["a.pt", "state.json"]]


def test_saving_a_step_again_replaces_it_and_leaves_later_ones(run):
    save_checkpoint(run, 2, model("old"), {}, keep=1)
    save_checkpoint(run, 9, model(), {}, keep=2)
    path = save_checkpoint(run, 2, model("new"), {}, keep=1)
    assert (path / "model.safetensors").read_text() == "new"
    assert names(run) == ["step-000002", "step-000009"]


def test_a_full_disk_halfway_keeps_the_old_checkpoints_and_says_how_much_is_needed(run):
    old = save_checkpoint(run, 1, model("x" * 5000), {}, keep=1)

    def full(folder):
        (folder / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"disk full.*it needs 5\.\d kB.*intact \(newest: step-000001\)"):
        save_checkpoint(run, 2, full, {}, keep=1)
    assert names(run) == ["step-000001"]
    verify(old)


@pytest.mark.parametrize("writer", ["bytes", "safetensors", "torch"])
def test_a_disk_that_is_really_full_keeps_the_old_checkpoints(tmp_path, writer):
    mount = tmp_path / "small"
    mount.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount]
    if not shutil.which("mount") or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        run = RunFolder.create(mount, "sort", "")
        old = save_checkpoint(run, 1, model(), {}, keep=1)
        with pytest.raises(RunError, match="disk full"):
            save_checkpoint(run, 2, big_model(writer), {}, keep=1)
        assert names(run) == ["step-000001"]
        verify(old)
        run.record(2, {"loss": 0.5})
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)  # the failed torch.save still holds its file


def big_model(writer):
    def write(folder):
        if writer == "bytes":
            (folder / "model.safetensors").write_bytes(bytes(4_000_000))
            return
        import safetensors.torch
        import torch

        weights = {"w": torch.zeros(1_000_000)}
        if writer == "safetensors":
            safetensors.torch.save_file(weights, folder / "model.safetensors")
        else:
            torch.save(weights, folder / "model.pt")

    return write


def test_an_error_that_is_not_the_disks_passes_through_and_leaves_nothing_partial(run):
    def broken(folder):
        (folder / "config.json").write_text("{}")
        raise TypeError("not a tensor")

    with pytest.raises(TypeError, match="not a tensor"):
        save_checkpoint(run, 1, broken, {}, keep=1)
    assert names(run) == []


def test_an_interrupt_while_saving_leaves_nothing_partial(run):
    def interrupted(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(run, 1, interrupted, {}, keep=1)
    assert names(run) == []


def test_what_a_killed_save_left_is_removed_by_the_next(run):
    leftover = run.checkpoints_path / ".step-000001.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_text("half")
    assert latest(run) is None
    save_checkpoint(run, 2, model(), {}, keep=1)
    assert names(run) == ["step-000002"]


def test_nothing_is_renamed_before_everything_is_synced(run, monkeypatch):
    happened = []
    sync, rename = checkpoint_module.sync_tree, os.rename
    monkeypatch.setattr(checkpoint_module, "sync_tree", lambda root: (happened.append("sync"), sync(root)))
    monkeypatch.setattr(
        checkpoint_module.os, "rename", lambda a, b: (happened.append("rename"), rename(a, b))
    )
    save_checkpoint(run, 1, model(), {}, keep=1)
    assert happened == ["sync", "rename"]


def test_a_changed_byte_is_found_and_named(run):
    path = save_checkpoint(run, 1, model("weights"), {}, keep=1)
    (path / "model.safetensors").write_text("weighty")
    with pytest.raises(RunError, match="model.safetensors has changed content"):
        verify(path)


def test_latest_passes_over_a_checkpoint_with_a_short_file(run):
    good = save_checkpoint(run, 1, model(), {}, keep=2)
    short = save_checkpoint(run, 2, model(), {}, keep=2)
    (short / "model.safetensors").write_text("w")
    assert latest(run) == good
    (short / "model.safetensors").unlink()
    with pytest.raises(RunError, match="model.safetensors is missing"):
        verify(short)


def test_a_folder_without_trainer_state_cannot_be_resumed_from(tmp_path):
    with pytest.raises(RunError, match="cannot be resumed from"):
        read_trainer_state(tmp_path)


def test_transformers_loads_the_folder_with_the_trainer_folder_inside(run, tiny_model, tiny_tokenizer):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def write_model(folder):
        tiny_model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)

    def write_trainer(folder):
        torch.save({"exp_avg": torch.ones(3)}, folder / "optimizer.pt")

    path = save_checkpoint(run, 1, write_model, {"step": 1}, keep=1, write_trainer=write_trainer)
    verify(path)
    again = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    assert all(torch.equal(a, b) for a, b in zip(tiny_model.parameters(), again.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(path)("Sort")["input_ids"] == tiny_tokenizer("Sort")["input_ids"]
