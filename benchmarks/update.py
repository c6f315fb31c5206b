"""One update, rft against TRL's GRPOTrainer on the same tokens: seconds and memory, taking turns.

    .venv/bin/python benchmarks/update.py --rounds 1     the whole grid, half an hour
    .venv/bin/python benchmarks/update.py --quick        one point: prompts of 160 tokens, answers of 20

The same on both sides: SmolLM2-135M-Instruct with bfloat16 weights, gradients and AdamW states, random
tokens in groups of 8, random rewards, GRPO with the DAPO normaliser, no KL term, gradients clipped at 1,
fused AdamW, all cores. All answers of a point are equally long, so TRL has nothing to pad. rft's side is
measure, credit and update as the page calls them; TRL's is its own compute_loss on prepared inputs,
backward, clipping and step. Both with and without gradient checkpointing ("full": rft's default; "none":
TRL's fastest), rft in rows of `train.micro_batch_tokens`, TRL in as many rows per pass as `--rows` says.

`speedup` and `memory_ratio` compare the two with the same setting; memory is the peak less what the process
held before it loaded the model. `gradient` is the norm on the first step, to show that both do the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from typing import Any

from _common import Rival, show, table

GRID = [(40, 20), (40, 200), (160, 20), (400, 50), (400, 200)]
QUICK = [(160, 20)]
ROW_TOKENS = 2048
"""TRL's rows per pass are as many as have about so many tokens, rft's own budget, but at least 8."""


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=8, help="prompts of a batch, 8 completions each")
    parser.add_argument("--rounds", type=int, default=2, help="measured updates of each side, after one")
    parser.add_argument("--point", action="append", help="PROMPT,COMPLETION in tokens, instead of the grid")
    parser.add_argument("--checkpointing", action="append", choices=["none", "full"], help="instead of both")
    parser.add_argument("--rows", type=int, help="TRL's rows per pass")
    parser.add_argument("--quick", action="store_true", help="one point")
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()

    points = QUICK if options.quick else GRID
    if options.point:
        points = [tuple(map(int, point.split(","))) for point in options.point]
    rows = [
        _compare(prompt, completion, checkpointing, options)
        for prompt, completion in points
        for checkpointing in options.checkpointing or ["none", "full"]
    ]
    show({"prompts": options.prompts, "points": rows}, options.json, lambda: print(table(rows)))


def _compare(prompt: int, completion: int, checkpointing: str, options: argparse.Namespace) -> dict[str, Any]:
    rows = options.rows or max(8, ROW_TOKENS // (prompt + completion) // 8 * 8)
    shape = [
        f"--{name}={value}"
        for name, value in {
            "model": options.model,
            "prompts": options.prompts,
            "prompt": prompt,
            "completion": completion,
            "checkpointing": checkpointing,
        }.items()
    ]
    measured: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        rivals = [
            Rival("rft", "_update_rft.py", *shape),
            Rival("trl", "_update_trl.py", *shape, f"--rows={min(rows, 8 * options.prompts)}"),
        ]
        for rival in rivals:
            stack.callback(rival.close)
        for number in range(options.rounds + 1):
            for rival in rivals:
                found = rival.step()
                print(
                    f"{prompt}+{completion} {checkpointing}, {number} {rival.name}: {found}", file=sys.stderr
                )
                measured.setdefault(rival.name, []).append(found)
    ours, theirs = (_median(measured[name]) for name in ("rft", "trl"))
    return {
        "prompt": prompt,
        "completion": completion,
        "checkpointing": checkpointing,
        "speedup": theirs["seconds"] / ours["seconds"],
        "memory_ratio": ours["memory_gb"] / theirs["memory_gb"],
        **{f"rft_{key}": value for key, value in ours.items()},
        **{f"trl_{key}": value for key, value in theirs.items()},
    }


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    return {
        "seconds": statistics.median(one["seconds"] for one in found[1:]),  # the first one warms up
        "memory_gb": max(one["memory_gb"] for one in found),
        "gradient": found[0]["gradient"],
    }


if __name__ == "__main__":
    main()
