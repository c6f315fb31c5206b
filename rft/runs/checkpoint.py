"""Checkpoints that exist are whole: written aside, synced, renamed; older ones go only after that.

    checkpoints/step-000012/
      config.json, model.safetensors, ...   a Hugging Face folder, for transformers and vLLM as it is
      trainer/state.json      what resume needs, as JSON: step, data cursor, held-out reward
      trainer/...             what resume needs, as tensors: written by the caller's `write_trainer`
      trainer/manifest.json   size and SHA-256 of every other file, to find damage before training goes on

Kept are the newest, for going on, and besides them the best by held-out reward, for using: of those that
were judged, as a checkpoint between two evaluations cannot be compared.

This file knows nothing about tensors: callers hand in functions that write into a folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rft.errors import RunError
from rft.runs.files import sync_folder, sync_tree, to_json
from rft.runs.folder import RunFolder

Writer = Callable[[Path], None]
_MANIFEST = Path("trainer", "manifest.json")
_STATE = Path("trainer", "state.json")
_FULL = 1 << 20
"""Bytes left below which a failed write is put down to a full disk: torch.save reports one as a RuntimeError
about file positions."""


class Best(NamedTuple):
    """A checkpoint that was judged, and how it did."""

    path: Path
    heldout: float
    """Mean held-out reward at its step."""


def save_checkpoint(
    folder: RunFolder,
    step: int,
    write_model: Writer,
    trainer_state: Mapping[str, Any],
    keep: int,
    write_trainer: Writer | None = None,
    *,
    keep_best: int = 0,
    has_read: Callable[[], None] = lambda: None,
) -> Path:
    """Writes `checkpoints/step-<step>/`, then deletes those up to this step that are neither new nor good.

    Args:
        write_model: writes the Hugging Face files into the folder it is given.
        trainer_state: what resume needs and JSON can hold; `keep_best` goes by its `heldout`, if there.
        keep: so many newest are kept.
        write_trainer: writes optimizer and random-state tensors into the `trainer` folder it is given.
        keep_best: so many best are kept besides.
        has_read: called when both writers are done, and what they read may change again.

    Raises:
        RunError: no room, or another error of the file system. Nothing partial stays, older ones are intact.
    """
    root = folder.checkpoints_path
    final = root / f"step-{step:06d}"
    aside = root / f".{final.name}.tmp"
    try:
        root.mkdir(exist_ok=True)
        for leftover in root.glob(".step-*.tmp"):  # of a run that was killed while it saved
            shutil.rmtree(leftover)
        (aside / "trainer").mkdir(parents=True)
        write_model(aside)
        (aside / _STATE).write_text(to_json(trainer_state) + "\n", encoding="utf-8")
        if write_trainer is not None:
            write_trainer(aside / "trainer")
        has_read()
        (aside / _MANIFEST).write_text(json.dumps(_manifest(aside), indent=1) + "\n", encoding="utf-8")
        sync_tree(aside)
        _move_into_place(aside, final)
    except BaseException as error:
        explained = _explain(error, root, final, aside)
        _remove_partial(aside)
        if explained is None:
            raise
        raise explained from error
    older = [path for path in checkpoints(folder) if path.name <= final.name]
    good = {one.path for one in _judged(older)[:keep_best]}
    for path in older[:-keep]:
        if path not in good:
            shutil.rmtree(path, ignore_errors=True)
    return final


def checkpoints(folder: RunFolder) -> list[Path]:
    """Every checkpoint of the run, oldest first."""
    return sorted(path for path in folder.checkpoints_path.glob("step-*") if path.is_dir())


def latest(folder: RunFolder) -> Path | None:
    """The newest checkpoint whose files all have their size, or None. Cheap: reads no weights."""
    for path in reversed(checkpoints(folder)):
        if not _damage(path, hashes=False):
            return path
    return None


def best(folder: RunFolder) -> Best | None:
    """The checkpoint with the highest held-out reward, the earlier of equals; None when none was judged."""
    return next(iter(_judged(checkpoints(folder))), None)


def verify(path: Path) -> None:
    """Reads every byte and compares. Raises RunError naming the files that are missing or damaged."""
    damage = _damage(path, hashes=True)
    if damage:
        raise RunError(
            f"checkpoint {path} is damaged: {'; '.join(damage)}; use an older one from {path.parent}/"
        )


def read_trainer_state(path: Path) -> dict[str, Any]:
    """The `trainer_state` a checkpoint was saved with. Raises RunError."""
    try:
        state: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be resumed from: {_STATE} cannot be read ({error})") from error
    return state


def _judged(paths: Sequence[Path]) -> list[Best]:
    """Those that have a held-out reward, best first."""
    found = []
    for path in paths:
        with contextlib.suppress(RunError):
            if (heldout := read_trainer_state(path).get("heldout")) is not None:
                found.append(Best(path, heldout))
    return sorted(found, key=lambda one: -one.heldout)


def _manifest(root: Path) -> dict[str, dict[str, Any]]:
    return {
        str(path.relative_to(root)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _damage(root: Path, *, hashes: bool) -> list[str]:
    try:
        manifest = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{_MANIFEST} cannot be read ({error})"]
    found = []
    for name, expected in manifest.items():
        path = root / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            found.append(f"{name} is missing")
        elif size != expected["bytes"]:
            found.append(f"{name} has {size} bytes instead of {expected['bytes']}")
        elif hashes and _sha256(path) != expected["sha256"]:
            found.append(f"{name} has changed content")
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move_into_place(aside: Path, final: Path) -> None:
    """A step saved twice (a run that was resumed from further back) keeps the newer; the older goes last."""
    replaced = final.with_name(f".{final.name}.replaced.tmp")
    if final.exists():
        os.rename(final, replaced)
    os.rename(aside, final)
    sync_folder(final.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def _remove_partial(aside: Path) -> None:
    """Empties files before unlinking them: a writer that failed may hold them open, and room with them."""
    for path in aside.rglob("*"):
        if path.is_file():
            with contextlib.suppress(OSError):
                os.truncate(path, 0)
    shutil.rmtree(aside, ignore_errors=True)


def _explain(error: BaseException, root: Path, final: Path, aside: Path) -> RunError | None:
    """What to tell the user, while the partial files exist; None when it is not the file system's doing."""
    if not isinstance(error, Exception):
        return None
    written = _bytes_below(aside)
    free = shutil.disk_usage(root).free if root.exists() else 0
    full = (
        getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or "No space left" in str(error)
        or free < _FULL
    )
    if not (full or isinstance(error, OSError)):
        return None
    whole = sorted(path for path in root.glob("step-*") if path.is_dir())
    intact = (
        f"older checkpoints are intact (newest: {whole[-1].name})" if whole else "no older checkpoint exists"
    )
    if not full:
        return RunError(f"could not write checkpoint {final}: {error}; {intact}")
    need = _size(_bytes_below(whole[-1])) if whole else f"more than {_size(written)}"
    return RunError(
        f"disk full while writing checkpoint {final}: it needs {need}, {_size(free + written)} was free; "
        f"{intact}. "
        f"Make room and resume, or set train.checkpoint.optimizer: false to write less"
    )


def _bytes_below(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def _size(count: int) -> str:
    """Bytes for people.

    >>> _size(1_600_000_000)
    '1.6 GB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
