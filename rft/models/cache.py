"""A folder that is expensive to make is made once, whole or not at all.

Many processes may ask for the same converted model at the same moment, and any of them may be killed. So
a folder is built under another name beside its place, flushed to disk, and renamed into it; a lock file lets
one process do the work while the others wait; a manifest of checksums tells a damaged folder from a whole one
each time it is used, in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rft.errors import ModelError

log = logging.getLogger("rft")

MANIFEST = "rft-manifest.json"
_EDGE_BYTES = 4 << 20


def cache_root() -> Path:
    """Where converted models are kept: `$RFT_CACHE`, else `~/.cache/rft/models`."""
    return Path(os.environ.get("RFT_CACHE") or "~/.cache/rft/models").expanduser()


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size, first and last 4 MiB: all of a small file, the edges of a big one.

    The edges of a weights file hold its header and its end, which is what a cut or half-written file gets
    wrong; hashing half a gigabyte at every start would cost more than it finds.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE_BYTES))
        if size > _EDGE_BYTES:
            file.seek(max(_EDGE_BYTES, size - _EDGE_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def damage(folder: Path) -> str | None:
    """What is wrong with a cached folder, in words; None when it is whole."""
    try:
        files: dict[str, str] = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {MANIFEST} is missing or unreadable"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if fingerprint(path) != expected:
            return f"{name} is not as it was written"
    return None


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """`target`, whole: found in the cache, or built by calling `build` with an empty folder.

    Args:
        target: the folder's place. Its parent is made when missing.
        build: fills the folder it is given. Whatever it raises leaves no trace at `target`.

    Raises:
        ModelError: the cache cannot be written (no space, no permission).
    """
    if target.is_dir() and damage(target) is None:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(target):
            problem = damage(target) if target.exists() else None
            if target.exists() and problem is None:
                return target
            if problem is not None:
                log.warning("cached model %s is damaged (%s); making it again", target, problem)
            _remove_leftovers(target)
            fresh = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
            try:
                build(fresh)
                _seal(fresh)
                _swap_in(fresh, target)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
    except OSError as error:
        raise ModelError(
            f"cannot write the model cache at {target.parent}: {error.strerror or error}; "
            "make room there or set RFT_CACHE to another folder"
        ) from error
    return target


@contextmanager
def _only_builder(target: Path) -> Iterator[None]:
    """Lets one process at a time build `target`; the operating system frees the lock of a killed one."""
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is preparing %s; waiting for it", target.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _prefix(target: Path) -> str:
    return f".{target.name}.building-"


def _remove_leftovers(target: Path) -> None:
    """Deletes what killed builds left behind; safe because the caller holds the lock."""
    for stale in target.parent.glob(_prefix(target) + "*"):
        shutil.rmtree(stale, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Writes the manifest and forces every byte to disk, so that the rename can only reveal whole files."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = {"files": {name: fingerprint(folder / name) for name in names}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    folder.chmod(0o755)  # mkdtemp makes 0700, which would hide a shared cache from other users
    for name in [*names, MANIFEST]:
        (folder / name).chmod(0o644)
        _fsync(folder / name)
    _fsync(folder)


def _swap_in(fresh: Path, target: Path) -> None:
    """Renames `fresh` to `target`; a damaged folder there goes first: rename replaces only empty ones."""
    if target.exists():
        damaged = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        os.rename(target, damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    os.rename(fresh, target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
