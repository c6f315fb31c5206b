"""Runs on disk as `rft runs` shows them: plain values first, which `--json` prints, then tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from rft.errors import RunError
from rft.runs.checkpoint import best, checkpoints
from rft.runs.folder import RunFolder
from rft.runs.metrics import METRICS, Metric, find_metric, in_order
from rft.runs.view import sparkline

_SPARK = 20


def describe_run(run: RunFolder) -> dict[str, Any]:
    """One run's state and last numbers, None where there are none. Damage is a `message`, never raised.

    A run of stages has the numbers of its newest one, and `stages` with those of each.
    """
    stages = [describe_run(stage) for stage in run.stages()]
    rows, damage = _or_damage(run.metrics, [])
    status, status_damage = _or_damage(lambda: run.status, None)
    failures: dict[str, int] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith("fail/") and value:
                failures[key.removeprefix("fail/")] = failures.get(key.removeprefix("fail/"), 0) + int(value)
    good = best(run)
    return {
        "run": str(run.path),
        "name": run.name,
        "id": run.id,
        "state": status.word if status else "unknown",
        "message": status_damage or damage or (status.message if status else ""),
        "step": status.step if status else 0,
        "steps": status.steps if status else 0,
        "reward": stages[-1]["reward"] if stages else _last(rows, "reward/mean"),
        "heldout": stages[-1]["heldout"] if stages else _last(rows, "heldout/mean"),
        "failures": failures,
        "checkpoints": [str(path) for path in checkpoints(run)],
        "best": str(good.path) if good else None,
        "best_heldout": good.heldout if good else None,
        "stages": stages,
    }


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """`rft runs list`: one line a run, oldest first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("name", "id", "state", "step", "reward", "held-out"):
        table.add_column(column, no_wrap=True)
    for run in runs:
        step = f"{run['step']}/{run['steps']}"
        cells = (run["name"], run["id"], run["state"], step, _number(run["reward"]), _number(run["heldout"]))
        table.add_row(*map(Text, cells))
    return table


def run_page(run: RunFolder, facts: Mapping[str, Any]) -> Group:
    """`rft runs show`: where it stands, how it went, where its files are."""
    rows, _ = _or_damage(run.metrics, [])
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column(overflow="fold")
    state = facts["state"] + (f": {facts['message']}" if facts["message"] else "")
    marks = {facts["best"]: f" (best: held-out {_number(facts['best_heldout'])})"}
    goes_on = "go on" if facts["checkpoints"] else "start over"
    can_go_on = facts["state"] not in ("running", "finished")
    lines = [
        ("run", facts["run"]),
        ("state", state),
        ("step", f"{facts['step']} of {facts['steps']}"),
        *(_stage_lines(facts["stages"]) or _courses(rows)),
        ("failures", " ".join(f"{kind}={count}" for kind, count in facts["failures"].items()) or "none"),
        ("checkpoints", "\n".join(path + marks.get(path, "") for path in facts["checkpoints"]) or "none"),
        ("recipe", str(run.recipe_path)),
        *([(goes_on, f"rft train --resume {run.path}")] if can_go_on else []),
        *[
            (name, str(path))
            for name, path in (
                ("forked from", run.origin_path),
                ("report", run.report_path),
                ("log", run.log_path),
            )
            if path.exists()
        ],
    ]
    for name, value in lines:
        table.add_row(name, Text(value))
    return Group(table)


def _courses(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [("reward", _course(rows, "reward/mean")), ("held-out", _course(rows, "heldout/mean"))]


def _stage_lines(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """A line for each stage: how far it is, its last numbers, its folder."""
    lines = []
    for stage in stages:
        told = [stage["state"], f"{stage['step']} of {stage['steps']} steps"]
        numbers = (("reward", stage["reward"]), ("held-out", stage["heldout"]))
        told += [f"{name} {_number(value)}" for name, value in numbers if value is not None]
        lines.append((f"stage {stage['name']}", ", ".join([*told, stage["run"]])))
    return lines


def describe_metrics(rows: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The table of metrics; with a run's rows, only the keys it has, each with its values.

    `healthy` is that of the last value, None where every number is; `outside` counts the steps that were not.
    """
    if rows is None:
        return [asdict(metric) for metric in METRICS]
    found = []
    for key in in_order({key for row in rows for key in row if key != "step"}):
        metric = find_metric(key) or Metric(key, "", "")
        values = [row[key] for row in rows if key in row]
        outside = [value for value in values if metric.range and not metric.healthy(value)]
        found.append(
            {
                **asdict(metric),
                "key": key,
                "values": values,
                "last": values[-1],
                "healthy": metric.healthy(values[-1]) if metric.range else None,
                "outside": len(outside),
            }
        )
    return found


def metrics_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """`rft runs metrics`. A last value outside its range is marked, and followed by what to do."""
    with_values = any("last" in metric for metric in metrics)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in (*(("", "metric", "last", "trend") if with_values else ("metric",)), "unit", "healthy"):
        table.add_column(column, no_wrap=True)
    table.add_column("meaning", overflow="fold")
    for metric in metrics:
        healthy = Metric(metric["key"], "", "", metric["low"], metric["high"]).range
        bad = metric.get("healthy") is False
        cells = [metric["key"], metric["unit"], healthy, metric["action"] if bad else metric["meaning"]]
        if with_values:
            known = [value for value in metric["values"] if value is not None]
            cells[:1] = ["!" if bad else "", metric["key"], _number(metric["last"]), sparkline(known, _SPARK)]
            if metric["outside"] and not bad:
                cells[-1] += f" (outside in {metric['outside']} of {len(metric['values'])} steps)"
        table.add_row(*map(Text, cells), style="red" if bad else "")
    return table


def _or_damage(read: Any, otherwise: Any) -> tuple[Any, str]:
    try:
        return read(), ""
    except RunError as error:
        return otherwise, str(error)


def _last(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return next((row[key] for row in reversed(rows) if row.get(key) is not None), None)


def _course(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if row.get(key) is not None]
    return f"{values[0]:.3f} to {values[-1]:.3f}  {sparkline(values, _SPARK)}" if values else "not measured"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
