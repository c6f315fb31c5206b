"""The cache is whole or absent, whatever kills, races with or damages it."""

from __future__ import annotations

import errno
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from rft.errors import ModelError
from rft.models.cache import MANIFEST, build_once, cache_root, damage, fingerprint

FILES = {"config.json": b"{}", "model.safetensors": b"\x01" * 5000}


def write_files(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).write_bytes(content)


def is_whole(target: Path) -> bool:
    return damage(target) is None and all((target / name).read_bytes() == FILES[name] for name in FILES)


def test_a_folder_is_built_once_and_found_afterwards(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        write_files(folder)

    target = tmp_path / "cache" / "model"
    assert build_once(target, build) == build_once(target, build) == target
    assert len(calls) == 1 and is_whole(target)


def test_a_failing_build_leaves_nothing_and_its_error_comes_through(tmp_path):
    def build(folder):
        write_files(folder)
        raise ValueError("cannot read tensor 7")

    with pytest.raises(ValueError, match="tensor 7"):
        build_once(tmp_path / "model", build)
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x01" * 4999),
        lambda folder: (folder / "config.json").write_bytes(b"[]"),
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text('{"files'),
        lambda folder: (folder / MANIFEST).write_text("[]"),
    ],
    ids=[
        "file gone",
        "file cut",
        "file changed",
        "manifest gone",
        "manifest cut",
        "manifest of another kind",
    ],
)
def test_a_damaged_folder_is_noticed_and_made_again(tmp_path, harm, caplog):
    target = build_once(tmp_path / "model", write_files)
    harm(target)
    assert damage(target) is not None
    assert is_whole(build_once(target, write_files))
    assert "is damaged" in caplog.text and str(target) in caplog.text


def test_a_big_file_is_judged_by_its_size_and_both_ends(tmp_path):
    path = tmp_path / "weights"
    whole = bytes(9 << 20)
    path.write_bytes(whole)
    before = fingerprint(path)
    for other in (whole[:-1], b"x" + whole[1:], whole[:-1] + b"x"):
        path.write_bytes(other)
        assert fingerprint(path) != before


def test_a_full_disk_is_a_one_line_error_that_names_the_place(tmp_path):
    def build(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ModelError, match="No space left on device.*RFT_CACHE") as caught:
        build_once(tmp_path / "model", build)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_made_is_a_model_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ModelError, match="cannot write the model cache"):
        build_once(tmp_path / "file" / "model", write_files)


def test_the_cache_moves_with_its_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("RFT_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("RFT_CACHE")
    assert cache_root() == Path.home() / ".cache" / "rft" / "models"


# A process that stops before every write, flush and rename until it is told to go on.
STEPPING = """
import os, sys
from pathlib import Path
from rft.models import cache

def stop(what):
    print(what, flush=True)
    if not sys.stdin.readline():
        sys.exit("nobody is there")

def stopping(name):
    real = getattr(os, name)
    def call(*args, **kwargs):
        stop(name)
        return real(*args, **kwargs)
    setattr(os, name, call)

def build(folder):
    for name, content in {"config.json": b"{}", "model.safetensors": b"\\x01" * 5000}.items():
        stop("write " + name)
        (folder / name).write_bytes(content)

stopping("fsync")
stopping("rename")
cache.build_once(Path(sys.argv[1]), build)
print("done", flush=True)
"""


def kill_at(step: int, target: Path) -> str:
    """Runs STEPPING and kills it where it stops for the `step`-th time. Returns where that was."""
    command = [sys.executable, "-c", STEPPING, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        for _ in range(step):
            child.stdout.readline()
            child.stdin.write("\n")
            child.stdin.flush()
        where = child.stdout.readline().strip()
        child.kill()
    return where


@pytest.mark.parametrize("damaged", [False, True], ids=["into nothing", "over a damaged folder"])
def test_killed_at_any_moment_it_leaves_the_place_empty_or_whole_and_the_next_try_succeeds(tmp_path, damaged):
    seen = []
    for step in count():
        target = tmp_path / str(step) / "model"
        if damaged:
            build_once(target, write_files)
            (target / "config.json").unlink()
        seen.append(kill_at(step, target))
        if seen[-1] == "done":
            break
        unchanged = damaged and not (target / "config.json").exists()
        assert unchanged or not target.exists() or is_whole(target), f"killed before {seen[-1]}"
        assert is_whole(build_once(target, write_files))
        assert sorted(path.name for path in target.parent.iterdir()) == [".model.lock", "model"]
    assert {"write config.json", "write model.safetensors", "fsync", "rename"} < set(seen)


def test_two_processes_at_once_do_the_work_once(tmp_path):
    script = """
import sys, time
from pathlib import Path
from rft.models.cache import build_once, damage

def build(folder):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    (folder / "config.json").write_text("{}")
    time.sleep(0.5)

print(damage(build_once(Path(sys.argv[1]), build)))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "model"), str(tmp_path / "log")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [child.communicate(timeout=60)[0].strip() for child in both] == ["None", "None"]
    assert (tmp_path / "log").read_text() == "built\n"
