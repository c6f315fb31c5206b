"""Writing files so that a crash, a kill or a full disk never leaves half of one.

Whole files are written aside, synced and renamed. Line files, one JSON object a line, are appended and
synced; a torn last line, all that a kill can leave, is ignored by readers and cut off by the next append.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rft.errors import RunError


def sync_folder(folder: Path) -> None:
    """Makes names created or renamed in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Makes every file and folder below `root` survive a power cut."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(Path(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def write_whole(path: Path, text: str) -> None:
    """Replaces `path` in one move: readers see the old text or the new one. Raises RunError."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        discard(aside)
        raise RunError(
            f"could not write {path}: {error.strerror}; what was there before is unchanged"
        ) from error


def discard(path: Path) -> None:
    """Removes what a failed write may have left; the failure itself is what gets reported."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Strict JSON on one line. NaN and infinities, which JSON lacks, become null; array values plain numbers.

    >>> to_json({"loss": float("nan"), "step": 3})
    '{"loss": null, "step": 3}'
    """
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


class JsonLines:
    """A file of JSON objects, one a line; one process writes, any number read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked = False

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one line; it is on the disk when this returns. Raises RunError when it cannot be written."""
        line = (to_json(record) + "\n").encode()
        try:
            with open(self.path, "ab") as file:
                if not self._checked:
                    self._cut_torn_line()
                    self._checked = True
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._checked = False
            raise RunError(
                f"could not write {self.path}: {error.strerror}; lines written before are kept"
            ) from error

    def read(self) -> list[dict[str, Any]]:
        """All complete lines; empty when the file does not exist yet. Raises RunError for a damaged one."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        records = []
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise RunError(
                    f"{self.path}, line {number} is not JSON: {line[:60].decode(errors='replace')!r}; "
                    f"remove that line to read the rest"
                ) from error
        return records

    def size(self) -> int:
        """Bytes so far: where `cut` can bring the file back to. For the process that writes it."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Drops all lines from byte `size` on. Raises RunError when the file cannot be written."""
        try:
            if self.path.exists() and self.path.stat().st_size > size:
                os.truncate(self.path, size)
        except OSError as error:
            raise RunError(f"could not shorten {self.path}: {error.strerror}") from error

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)
