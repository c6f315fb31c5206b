"""Rows out of any source, one at a time, each with the place it came from.

What a source is shows in its shape alone:

    tasks.jsonl, tasks.csv, tasks.parquet     a file
    module:function, ./file.py:function       a function that yields rows
    reasoning-gym:NAME                        a procedural generator
    a folder, or owner/name                   a Hugging Face dataset

Files are read as a stream, so looking at the first rows of a large one is cheap. The heavy readers
(pyarrow, datasets, reasoning-gym) are imported only by the sources that need them.
"""

from __future__ import annotations

import csv
import difflib
import inspect
import json
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rft.errors import DataError
from rft.recipe.resolve import resolve_callable
from rft.recipe.schema import SourceSpec
from rft.types import Task

Kind = Literal["file", "function", "reasoning-gym", "dataset"]
GYM = "reasoning-gym:"


class Row(NamedTuple):
    """One row and where it stands, for messages."""

    where: str
    """`tasks.jsonl:17`, or `owner/name: row 17`."""
    value: Mapping[str, Any] | Task


def kind_of(source: str) -> Kind:
    """What the text names, by its shape."""
    if source.startswith(GYM):
        return "reasoning-gym"
    if re.fullmatch(r".+\.py:[\w.]+|[A-Za-z_][\w.]*:[\w.]+", source):
        return "function"
    return "file" if Path(source).suffix in _READERS else "dataset"


def read_rows(spec: SourceSpec, *, seed: int) -> Iterator[Row]:
    """Yields the source's rows in their own order, as a stream.

    Args:
        seed: for sources that make their rows, unless `with:` names one.

    Raises DataError when the source is missing or a row cannot be read.
    """
    kind = kind_of(spec.source)
    if kind == "file":
        return _file(Path(spec.source))
    if kind == "function":
        return _function(spec, seed)
    if kind == "reasoning-gym":
        return _reasoning_gym(spec, seed)
    return _dataset(spec)


def _file(path: Path) -> Iterator[Row]:
    if not path.is_file():
        others = [other.name for other in path.parent.glob("*") if other.suffix in _READERS]
        close = difflib.get_close_matches(path.name, others, 2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise DataError(f"no file {path}{hint}")
    try:
        yield from _READERS[path.suffix](path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                value = json.loads(line.rstrip("\r\n"))
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from error
            if not isinstance(value, dict):
                raise DataError(f"{where}: a row must be a JSON object, got {line.strip()[:60]}")
            yield Row(where, value)


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        names = list(reader.fieldnames or ())
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"{path}:1: the header names {', '.join(twice)} more than once")
        try:
            for value in reader:
                where = f"{path}:{reader.line_num}"
                if None in value or None in value.values():
                    # DictReader files surplus cells under None, and None in place of missing ones.
                    told = "more" if None in value else "fewer"
                    raise DataError(f"{where}: {told} cells than the {len(names)} columns of the header")
                yield Row(where, value)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.reader.line_num}: not valid CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=256):
            for value in batch.to_pylist():
                number += 1
                yield Row(f"{path}: row {number}", value)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not valid Parquet: {' '.join(str(error).split())}") from error


_READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}


def _function(spec: SourceSpec, seed: int) -> Iterator[Row]:
    function = resolve_callable(spec.source)
    arguments = dict(spec.with_)
    try:
        signature = inspect.signature(function)
        if "seed" in signature.parameters:
            arguments.setdefault("seed", seed)
        signature.bind(**arguments)
    except (TypeError, ValueError) as error:
        raise DataError(f"{spec.source} cannot be called with {sorted(arguments)}: {error}") from error
    return _numbered(spec.source, _guarded(spec.source, lambda: function(**arguments)))


def _guarded(source: str, make: Any) -> Iterator[Any]:
    """What `make()` yields; the author's exception becomes one line with its place."""
    try:
        made = make()
        if not isinstance(made, Iterable) or isinstance(made, str | Mapping):
            raise DataError(f"{source} must return or yield rows, got {type(made).__name__}")
        yield from made
    except DataError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
        raise DataError(f"{source} failed: {said}") from error


def _numbered(source: str, values: Iterable[Any]) -> Iterator[Row]:
    for number, value in enumerate(values, start=1):
        where = f"{source}: row {number}"
        if not isinstance(value, Mapping | Task):
            raise DataError(f"{where}: must be a mapping or a Task, got {type(value).__name__}")
        yield Row(where, value)


def _reasoning_gym(spec: SourceSpec, seed: int) -> Iterator[Row]:
    """`prompt`, `reference`, `reasoning_gym` (the name) and `entry`, which the generator's scorer takes."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        hint = "pip install 'rft-loop[envs]'"
        raise DataError(f"{spec.source} needs the extra `envs`: {hint} ({error})") from error
    name = spec.source.removeprefix(GYM)
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, 3) or sorted(DATASETS)[:5]
        raise DataError(f"reasoning-gym has no {name!r}; did you mean {' or '.join(close)}?")
    arguments = {"seed": seed, **({"size": spec.limit} if spec.limit else {}), **spec.with_}
    try:
        dataset = reasoning_gym.create_dataset(name, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise DataError(f"{spec.source} cannot be made with {arguments}: {error}") from error
    rows = (
        {"prompt": e["question"], "reference": e["answer"], "entry": e, "reasoning_gym": name}
        for e in dataset
    )
    return _numbered(spec.source, rows)


def _dataset(spec: SourceSpec) -> Iterator[Row]:
    """A Hugging Face dataset: a folder written by `save_to_disk`, a folder of data files, or a hub id."""
    source = Path(spec.source)
    if not source.is_dir() and (source.is_absolute() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec.source)):
        known = ", ".join(sorted(_READERS))
        raise DataError(f"{spec.source}: no such folder, and not a file ending in {known} or a hub id")
    import datasets

    try:
        if (source / "dataset_info.json").is_file() or (source / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(spec.source, **spec.with_)
        else:
            loaded = datasets.load_dataset(spec.source, split=spec.split, **spec.with_)
    except Exception as error:  # datasets raises from many libraries: hub, HTTP, parsers
        said = " ".join(str(error).split())[:300]
        raise DataError(f"{spec.source} cannot be loaded: {type(error).__name__}: {said}") from error
    if isinstance(loaded, Mapping):
        split = spec.split or "train"
        if split not in loaded:
            raise DataError(f"{spec.source} has no split {split!r}; it has {', '.join(map(str, loaded))}")
        loaded = loaded[split]
    return _numbered(spec.source, loaded)
