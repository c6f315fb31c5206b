"""Human agreement: does the evaluator judge as people do?

Labels are mapped to categories (as given when there are at most ten values), scores to the nearest category
on the evaluator's range. Cohen's kappa corrects for chance, quadratic weights count near misses as such;
percent agreement would flatter (arXiv:2406.12624). With two raters, their own agreement is the ceiling.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rft.check.bench import Bench, Label
from rft.check.findings import Finding, StageResult
from rft.check.statistics import bootstrap, kappa, krippendorff_alpha, spearman
from rft.errors import DataError
from rft.types import Message, Task

_MOST_CATEGORIES = 10
_OURS = ("prompt", "completion", "text", "label", "rater", "reference", "id")
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "up": 1.0, "down": 0.0, "good": 1.0, "bad": 0.0}


async def human(bench: Bench) -> StageResult:
    """Scores labelled answers and compares."""
    if not bench.labels:
        return StageResult(
            "human", skipped="no labels; give --labels FILE (prompt, completion, label, rater)"
        )
    items = _items(bench.labels)
    scores = await bench.judge([(labels[0].task, labels[0].text) for labels in items])
    judged = [
        (float(s), [one.value for one in labels]) for s, labels in zip(scores, items, strict=True) if s.ok
    ]
    values = sorted({value for _, labels in judged for value in labels})
    if len(judged) < 2 or len(values) < 2:
        todo = "label more answers, good and bad ones"
        return StageResult("human", [Finding("warn", f"{len(judged)} labelled answers with scores", todo)])
    said = np.array([score for score, _ in judged])
    meant = np.array([np.mean(labels) for _, labels in judged])
    scaled = _scaled(said, bench.evaluator.range, values)
    rho = bootstrap(lambda index: spearman(said[list(index)], meant[list(index)]), len(judged), bench.seed)
    alpha = bootstrap(
        lambda index: krippendorff_alpha([[scaled[i], meant[i]] for i in index]), len(judged), bench.seed
    )
    figures: dict[str, float | None] = {"labelled": float(len(judged)), **_spread("spearman", rho)}
    figures |= _spread("krippendorff_alpha", alpha)
    agreement, name = alpha, "Krippendorff's alpha"
    if len(values) <= _MOST_CATEGORIES:
        of_score, of_label = (_nearest(numbers, values) for numbers in (scaled, meant))
        agreement = bootstrap(
            lambda index: kappa(of_score[list(index)], of_label[list(index)], len(values)),
            len(judged),
            bench.seed,
        )
        name = "Cohen's kappa"
        figures |= _spread("kappa", agreement) | _confusion(of_score, of_label, values)
    ceiling = krippendorff_alpha([labels for _, labels in judged])
    figures["between_people"] = None if np.isnan(ceiling) else ceiling
    return StageResult("human", _verdict(bench, agreement.low, f"{name} {agreement}", ceiling), figures)


def _verdict(bench: Bench, low: float, told: str, ceiling: float) -> list[Finding]:
    thresholds = bench.thresholds
    if low >= thresholds.kappa_warn:
        return []
    among = "" if np.isnan(ceiling) else f"; people agree among themselves with alpha {ceiling:.2f}"
    return [
        Finding(
            "fail" if low < thresholds.kappa_fail else "warn",
            f"the evaluator agrees with people by {told}{among}",
            "read the answers where they differ and change the evaluator; if the interval is wide, label more"
            + (" and agree on what the labels mean" if ceiling < thresholds.kappa_warn else ""),
        )
    ]


def read_labels(path: Path) -> list[Label]:
    """Labels from .csv or .jsonl with columns prompt, completion (or text), label, and, if there are any,
    rater, reference, id and whatever fields the evaluator reads. A label is a number, or yes/no, up/down.

    Raises DataError that names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labels {path} cannot be read: {error}") from error
    rows: list[tuple[int, Mapping[str, Any]]] = []
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text))
        rows = [(reader.line_num, row) for row in reader]
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    rows.append((number, json.loads(line)))
                except ValueError as error:
                    raise DataError(f"labels {path}, line {number}: not JSON: {error}") from error
    if not rows:
        raise DataError(f"labels {path}: holds no rows")
    return [_label(f"labels {path}, line {number}", row) for number, row in rows]


def _label(where: str, row: Any) -> Label:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a label is a JSON object, got a {type(row).__name__}")
    text = row.get("completion", row.get("text"))
    for name, value in (("prompt", row.get("prompt")), ("completion", text), ("label", row.get("label"))):
        if value is None:
            raise DataError(f"{where}: no {name}; the row has {', '.join(map(str, row))}")
    said = str(row["label"]).strip().casefold()
    try:
        value = _WORDS[said] if said in _WORDS else float(said)
    except ValueError:
        raise DataError(f"{where}: a label is a number, yes/no or up/down, got {row['label']!r}") from None
    if not np.isfinite(value):
        raise DataError(f"{where}: a label is a finite number, got {row['label']!r}")
    extra = {str(name): value for name, value in row.items() if name not in _OURS}
    prompt = str(row["prompt"])
    about = f"{prompt}\n{row.get('reference')}".encode(errors="replace")
    name = str(row.get("id") or f"label-{hashlib.sha256(about).hexdigest()[:8]}")
    task = Task(name, (Message("user", prompt),), row.get("reference"), extra)
    return Label(task, str(text), value, str(row.get("rater") or ""))


def _items(labels: Sequence[Label]) -> list[list[Label]]:
    """Labels of the same answer together."""
    found: dict[tuple[str, str], list[Label]] = defaultdict(list)
    for label in labels:
        found[label.task.id, label.text].append(label)
    return list(found.values())


def _scaled(said: np.ndarray, bounds: tuple[float, float], values: Sequence[float]) -> np.ndarray:
    """Scores on the labels' scale: the evaluator's range, where it is finite, spans the labels'."""
    low, high = bounds if np.isfinite(bounds).all() else (float(said.min()), float(said.max()))
    share = (said - low) / (high - low) if high > low else np.zeros_like(said)
    return values[0] + share * (values[-1] - values[0])


def _nearest(numbers: np.ndarray, values: Sequence[float]) -> np.ndarray:
    return np.abs(numbers[:, None] - np.asarray(values)[None, :]).argmin(axis=1)


def _confusion(
    of_score: np.ndarray, of_label: np.ndarray, values: Sequence[float]
) -> dict[str, float | None]:
    return {
        f"labelled {values[label]:g}, scored {values[score]:g}": float(
            ((of_label == label) & (of_score == score)).sum()
        )
        for label in range(len(values))
        for score in range(len(values))
        if ((of_label == label) & (of_score == score)).any()
    }


def _spread(name: str, estimate: Any) -> dict[str, float | None]:
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
