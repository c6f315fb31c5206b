"""Run by .side-env's Python: trackio or mlflow writes a run, which is read back from its files.

python against_trackers.py trackio FOLDER WHERE_THE_LOCKED_STACK_IS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tracked import SECRET, two_lives

STEPS = [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]


def trackio(folder: Path) -> None:
    run = two_lives(folder, "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("rft", run.id)
    assert [(row["step"], row["reward/mean"]) for row in rows if "reward/mean" in row] == STEPS, rows
    assert [(row["step"], row["heldout/mean"]) for row in rows if "heldout/mean" in row] == [(0, 0.1)]
    table = next(row["rollouts"] for row in rows if row["step"] == 2)
    assert table["_value"][0]["answer"] == "answer 0 of step 2 ***", table
    kept = b"".join(path.read_bytes() for path in (run.path / "trackers").rglob("*") if path.is_file())
    assert b"packaged:tiny" in kept and SECRET.encode() not in kept


def mlflow(folder: Path) -> None:
    run = two_lives(folder, "mlflow")
    from mlflow.tracking import MlflowClient

    place = (run.path / "trackers/mlflow").resolve()
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("rft")
    (only,) = client.search_runs([experiment.experiment_id])
    rewards = client.get_metric_history(only.info.run_id, "reward/mean")
    assert [(one.step, one.value) for one in rewards] == STEPS
    assert [(one.step, one.value) for one in client.get_metric_history(only.info.run_id, "heldout/mean")] == [
        (0, 0.1)
    ]
    assert only.data.params["model.source"] == "packaged:tiny"
    assert only.data.params["evaluator.with.api_key"] == "***"
    tables = sorted(place.rglob("rollouts/*.json"))
    assert [path.stem for path in tables] == [f"step-{step:06d}" for step, _ in STEPS]
    assert '"answer 0 of step 2 ***"' in tables[1].read_text()
    assert not Path("mlruns").exists()
    kept = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert SECRET.encode() not in kept


if __name__ == "__main__":
    os.environ["GRADER_TOKEN"] = SECRET
    name, folder, locked_stack = sys.argv[1:]
    sys.path.append(locked_stack)  # accelerate, and torch, which it imports
    os.chdir(folder)
    {"trackio": trackio, "mlflow": mlflow}[name](Path(folder))
