"""From `rft train` to the first sampled token, seconds, with everything cached: as a user waits for it.

    .venv/bin/python benchmarks/start.py

The command is a fresh process each time; the first one warms the disk cache and does not count. The first
token is taken for sampled when the first request comes back: a held-out answer of one token.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import show


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--times", type=int, default=3, help="measured starts, after one to warm up")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    seconds = []
    for number in range(options.times + 1):
        taken = _start(options.recipe)
        print(f"start {number}: {taken:.1f} s", file=sys.stderr)
        if number:
            seconds.append(taken)
    median = statistics.median(seconds)
    show(
        {"seconds": median, "all": seconds}, options.json, lambda: print(f"first token after {median:.1f} s")
    )


def _start(recipe: str) -> float:
    """Starts a run whose first held-out evaluation is one token, and ends it when that has come."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"train.output_dir={folder}", "eval.tasks=1", "rollout.max_new_tokens=1"]
        log = Path(folder, "stdout")
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("rft")), "train", recipe, *overrides],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            while "held-out reward" not in log.read_text():
                if process.poll() is not None:
                    sys.exit(f"rft train ended early:\n{log.read_text()[-2000:]}")
                time.sleep(0.02)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
