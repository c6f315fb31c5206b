"""Killed at random moments and gone on with: does a run end where an uninterrupted one does?

    .venv/bin/python benchmarks/kill.py --trials 20

`rft train` on the packaged tiny model with the real engine, a checkpoint and a held-out evaluation at every
step. Each trial is killed (SIGKILL, the whole process group) once or twice, resumed each time with `rft train
--resume`, and let run to its end. The moments are drawn, seeded: every fourth while the process starts, which
is most of its life, the others from its first rollouts to its end, each from its own share of that time, so
that rollouts, updates, checkpoints, evaluations and the final report all get their turn.

Equal means: SHA-256 over all tensors of the last checkpoint's weights and over its optimizer's, and every
metric of every step except seconds, memory, and how many verdicts the cache gave. Two uninterrupted runs are
compared first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _common import show, table

RFT = Path(sys.executable).with_name("rft")
RECIPE = """\
name: killed
seed: 3
model: {source: packaged:tiny, dtype: DTYPE}
data: {train: tasks.jsonl}
evaluator: ./grader.py:early_letters
rollout: {group_size: 4, max_new_tokens: 16}
train:
  steps: 12
  prompts_per_step: 4
  learning_rate: 1e-3
  optimizer: {schedule: cosine, warmup_steps: 1}
  checkpoint: {every: 1, keep: 2}
eval: {tasks: 4, every: 1, temperature: 1.0}
"""
GRADER = """\
from rft import evaluator


@evaluator
def early_letters(text):
    return sum(byte % 64 < 32 for byte in text.encode()) / max(1, len(text.encode()))
"""
_MOODS = ("time/", "memory/", "rollout/tokens_per_s", "eval/cached")
"""Metrics that depend on the machine's mood."""


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--keep", type=Path, help="a folder for the runs, instead of one that is removed")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(options, options.keep or Path(temporary))
    equal = sum(row["equal"] for row in result["trials"])
    say = f"{equal} of {options.trials} killed runs end with the same weights, optimizer and metrics"
    show({"equal": equal, **result}, options.json, lambda: print(table(result["trials"]), say, sep="\n"))


def measure(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Two uninterrupted runs, then the trials."""
    began = time.time()
    whole = Trial(root / "whole", options.dtype)
    whole.run()
    life_s, start_s = time.time() - began, whole.first_rollouts() - began
    again = Trial(root / "again", options.dtype)
    again.run()
    expected = whole.end()
    if differs := difference(expected, again.end()):
        sys.exit(f"two uninterrupted runs differ, so nothing can be compared: {differs}")

    def trial(number: int) -> dict[str, Any]:
        generator = random.Random(f"{options.seed}/{number}")
        share = (number + generator.random()) / options.trials
        moments_s = [share * start_s if number % 4 == 0 else start_s + share * (life_s - start_s)]
        moments_s += [generator.random() * life_s] * (number % 2)  # for every other one a second kill
        again, seen = 0, [""]
        while not seen[0]:  # a machine that has become faster ends a run before its kill
            one = Trial(root / f"trial-{number:02d}-{again}", options.dtype)
            seen = [one.run(kill_after_s=moment_s * 0.9**again) for moment_s in moments_s]
            again += 1
        one.run()
        differs = difference(expected, one.end())
        row = {"trial": number, "killed during": ", ".join(filter(None, seen)), "equal": not differs}
        print(json.dumps({**row, "differs": differs}), file=sys.stderr, flush=True)
        return row

    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(trial, range(options.trials)))
    return {"life_s": round(life_s, 1), "start_s": round(start_s, 1), "dtype": options.dtype, "trials": rows}


class Trial:
    """One run in a folder of its own, started, killed and gone on with."""

    def __init__(self, folder: Path, dtype: str) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        (folder / "grader.py").write_text(GRADER)
        (folder / "killed.yaml").write_text(RECIPE.replace("DTYPE", dtype))
        rows = [{"prompt": f"Say something about {number}."} for number in range(40)]
        (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, kill_after_s: float | None = None) -> str:
        """Starts the run or goes on with it, to its end or until killed; says what was under way then."""
        begun = bool(list(self._folder.glob("runs/killed/*/recipe.yaml")))
        words = ["--resume", "killed"] if begun else ["killed.yaml"]
        with open(self._folder / "log.txt", "ab") as log:
            process = subprocess.Popen(
                [RFT, "train", *words], cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
            try:
                process.wait(kill_after_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return self._under_way(begun)
        if process.returncode != 0:
            sys.exit(f"{self._folder} failed:\n{(self._folder / 'log.txt').read_text()[-3000:]}")
        return ""

    def first_rollouts(self) -> float:
        """When the first were written down, in seconds since 1970."""
        (path,) = self._folder.glob("runs/killed/*/rollouts/heldout-000000.parquet")
        return path.stat().st_mtime

    def _under_way(self, begun: bool) -> str:
        """What the files tell about the moment of the kill."""
        runs = list(self._folder.glob("runs/killed/*/recipe.yaml"))
        if not runs:
            return "start"
        run = runs[0].parent
        if (run / "report.md").exists():
            return "after the report"
        steps = Counter(path.name.partition("-")[0] for path in run.glob("rollouts/*.parquet"))
        recorded = len((run / "metrics.jsonl").read_text().splitlines()) if steps["step"] else 0
        if list(run.glob("checkpoints/.step-*")):
            return f"checkpoint {recorded}"
        if steps["step"] > recorded:
            return f"evaluation {steps['step']}"
        if not steps["heldout"]:
            return "start"
        return f"step {recorded + 1}" if not begun else f"start or step {recorded + 1}"

    def end(self) -> dict[str, Any]:
        """What must be equal."""
        (run,) = self._folder.glob("runs/killed/*/")
        newest = max(run.glob("checkpoints/step-*"))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        metrics = [
            {name: value for name, value in line.items() if not name.startswith(_MOODS)} for line in lines
        ]
        return {"weights": _weights(newest), "memory": _memory(newest), "metrics": metrics}


def _weights(checkpoint: Path) -> str:
    from safetensors.torch import load_file

    return _digest(load_file(checkpoint / "model.safetensors"))


def _memory(checkpoint: Path) -> str:
    import torch

    return _digest(torch.load(checkpoint / "trainer" / "memory.pt", weights_only=True)["updater"])


def _digest(value: Any) -> str:
    """SHA-256 of nested tensors and plain values."""
    import torch

    hashed = hashlib.sha256()

    def add(one: Any) -> None:
        if isinstance(one, dict):
            for key in sorted(one, key=str):
                hashed.update(repr(key).encode())
                add(one[key])
        elif isinstance(one, torch.Tensor):
            hashed.update(one.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(repr(one).encode())

    add(value)
    return hashed.hexdigest()


def difference(expected: dict[str, Any], got: dict[str, Any]) -> str:
    """What is not equal, in words; empty when all is."""
    found = [name for name in ("weights", "memory") if expected[name] != got[name]]
    if len(expected["metrics"]) != len(got["metrics"]):
        found.append(f"{len(got['metrics'])} steps instead of {len(expected['metrics'])}")
    for mine, theirs in zip(expected["metrics"], got["metrics"], strict=False):
        keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        found += [f"step {mine['step']} {key}: {mine.get(key)} {theirs.get(key)}" for key in keys[:3]]
    return "; ".join(found)


if __name__ == "__main__":
    main()
