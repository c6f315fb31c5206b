"""Checkpoints of a full fine-tuning run: how long each one holds up the loop.

    .venv/bin/python benchmarks/checkpoint.py

`rft train` itself, in this process, with a checkpoint after every step: bfloat16 weights, float32 masters and
AdamW's two moments. Blocked is the time the training thread spends in `Progress.save` and, before the next
step's optimizer writes, waiting until the checkpoint has been read; the last checkpoint, which a run waits
for to its end, does not count. Written is the time until the folder has its name: serialising, hashing,
syncing, renaming. Steps with a checkpoint under way are compared with the same steps without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import show, table

GRADER = """\
import zlib

from rft import evaluator


@evaluator
def by_checksum(text):
    return zlib.crc32(text.encode()) % 101 / 100  # differs within every group and teaches nothing
"""


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    from rft.runs.quiet import reserved_stdout

    here = Path.cwd()
    with tempfile.TemporaryDirectory(dir=here) as folder, reserved_stdout():  # not /tmp, which may be memory
        os.chdir(folder)
        result = measure(options)
        os.chdir(here)
    show(result, options.json, lambda: print(table([result])))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One run with checkpoints, then one without."""
    import rft.progress as progress

    Path("grader.py").write_text(GRADER)
    rows = [{"prompt": f"Sort these numbers from smallest to largest: {n} 7 19 3 42"} for n in range(200)]
    Path("tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    blocked = _Timed()
    written = _Timed()
    progress.Progress.save = blocked.around(progress.Progress.save)  # type: ignore[method-assign]
    progress.BackgroundWriter.wait_until_read = blocked.around(  # type: ignore[method-assign]
        progress.BackgroundWriter.wait_until_read
    )
    progress.save_checkpoint = written.around(progress.save_checkpoint)
    steps_s, size = _train(options, every=1)
    # In the order of the loop: (wait, save) for every step, the first wait before any save.
    waits, saves = blocked.seconds[0::2], blocked.seconds[1::2]
    per_checkpoint = [save + wait for save, wait in zip(saves[:-1], waits[1:], strict=True)]
    plain_s, _ = _train(options, every=0)
    return {
        "blocked_s": statistics.median(per_checkpoint),
        "worst_blocked_s": max(per_checkpoint),
        "written_s": statistics.median(written.seconds[: len(per_checkpoint)]),
        "gigabytes": size / 1e9,
        "step_s": statistics.median(steps_s[1:]),
        "step_without_s": statistics.median(plain_s[1:]),
        "dtype": options.dtype,
    }


class _Timed:
    """Seconds of every call."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*values, **options)
            finally:
                self.seconds.append(time.perf_counter() - began)

        return timed


def _train(options: argparse.Namespace, every: int) -> tuple[list[float], int]:
    """Seconds of each step, and the bytes of a checkpoint."""
    from rft.recipe.load import recipe_from
    from rft.runs.checkpoint import checkpoints
    from rft.runs.folder import RunFolder
    from rft.runs.view import View
    from rft.train import train

    values = {
        "name": f"every-{every}",
        "model": {"source": options.model, "dtype": options.dtype},
        "data": {"train": "tasks.jsonl"},
        "evaluator": {"use": "./grader.py:by_checksum", "require_check": "none"},
        "rollout": {"group_size": 8, "max_new_tokens": 24},
        "train": {
            "steps": options.steps,
            "prompts_per_step": 8,
            "checkpoint": {"every": every, "keep": 1, "keep_best": 0},
        },
        "eval": {"tasks": 2, "every": 0},
    }
    recipe = recipe_from(values, source="benchmark", folder=Path.cwd())
    summary = train(recipe, view=View(options.steps, quiet=True))
    run = RunFolder.open(summary.run)
    (newest,) = checkpoints(run)
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return [row["time/step_s"] for row in run.metrics()], size


if __name__ == "__main__":
    main()
