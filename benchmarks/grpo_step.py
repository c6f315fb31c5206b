"""One GRPO step, rft against TRL's GRPOTrainer: seconds and peak memory, taking turns step by step.

    .venv/bin/python benchmarks/grpo_step.py             equal lengths: every completion has --tokens tokens
    .venv/bin/python benchmarks/grpo_step.py --free      completions end where the model ends them
    .venv/bin/python benchmarks/grpo_step.py --survey    TRL's modes against each other, to find its fastest

The same on both sides: SmolLM2-135M-Instruct, bfloat16 weights, gradients and AdamW states, the prompts of
recipes/quickstart.yaml in the same order, 8 prompts x 8 completions, temperature 1, GRPO with the DAPO
normaliser, random rewards (so that every group trains on both sides), fused AdamW, all cores. The rows of rft
differ in `master_weights` (its default keeps float32 masters) and in `gradient_checkpointing` (its default
recomputes whole layers, "rft none" nothing); TRL runs without either, which is its fastest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from typing import Any

from _common import Rival, show, table

TRL_MODES = {
    "trl": [],
    "trl 8 rows": ["--rows", "8"],
    "trl 64 rows": ["--rows", "64"],
    "trl autocast": ["--rows", "16", "--autocast"],
    "trl continuous": ["--rows", "16", "--continuous"],
}
FASTEST = ["--rows", "16"]
"""What --survey found; "trl" is this one."""


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="measured steps of each side, after one to warm up"
    )
    parser.add_argument("--tokens", type=int, default=24, help="tokens per completion (at most, with --free)")
    parser.add_argument(
        "--model", default="packaged:smollm2-135m-instruct", help="packaged:tiny for a quick look"
    )
    parser.add_argument("--free", action="store_true", help="let the model end its completions")
    parser.add_argument("--no-masters-row", action="store_true", help="leave that row out: 4 GB less")
    parser.add_argument("--survey", action="store_true", help="compare TRL's modes instead")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()

    measured = _survey(options) if options.survey else _in_turns(options)
    rows = [_row(name, found) for name, found in measured.items()]
    result: dict[str, Any] = {
        "mode": "free" if options.free else "equal",
        "tokens": options.tokens,
        "sides": rows,
    }
    if not options.survey:
        result |= _ratios({row["side"]: row for row in rows})
    show(result, options.json, lambda: _say(result, rows))


def _in_turns(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """What each side's steps cost; the first warms up and is not counted."""
    with ExitStack() as stack:
        rivals = _rivals(options)
        for rival in rivals:
            stack.callback(rival.close)
        measured: dict[str, list[dict[str, Any]]] = {rival.name: [] for rival in rivals}
        for number in range(options.steps + 1):
            for rival in rivals:
                found = _step(rival, number)
                if number:
                    measured[rival.name].append(found)
    return measured


def _survey(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The same of TRL's modes, one after the other: five at a time would not fit into memory."""
    measured = {}
    for name, extra in TRL_MODES.items():
        rival = _trl(name, extra or FASTEST, options)
        try:
            measured[name] = [_step(rival, number) for number in range(options.steps + 1)][1:]
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
        finally:
            rival.close()
    return measured


def _step(rival: Rival, number: int) -> dict[str, Any]:
    found: dict[str, Any] = rival.step()
    print(f"step {number} {rival.name}: {found['seconds']:.1f} s", file=sys.stderr)
    return found


def _rivals(options: argparse.Namespace) -> list[Rival]:
    rivals = [
        _rft("rft", options, masters=False),
        _trl("trl", FASTEST, options),
        _rft("rft none", options, masters=False, checkpointing="none"),
    ]
    return rivals if options.no_masters_row else [*rivals, _rft("rft masters", options, masters=True)]


def _rft(name: str, options: argparse.Namespace, *, masters: bool, checkpointing: str = "full") -> Rival:
    overrides = [
        "evaluator=random",
        f"model.source={options.model}",
        "model.dtype=bfloat16",
        f"model.gradient_checkpointing={checkpointing}",
        f"train.optimizer={{master_weights: {str(masters).lower()}}}",
        "train.learning_rate=2e-5",
        f"train.steps={options.steps + 1}",
        "train.checkpoint.optimizer=false",
        "data.shuffle=false",
        "engine.parity_every=0",
        "eval.tasks=1",
        f"rollout.max_new_tokens={options.tokens}",
    ]
    if not options.free:
        overrides.append(f"rollout.sampling={{min_tokens: {options.tokens}}}")
    return Rival(name, "_grpo_rft.py", *overrides)


def _trl(name: str, extra: list[str], options: argparse.Namespace) -> Rival:
    length = [] if options.free else ["--force-length"]
    size = ["--tokens", str(options.tokens), "--steps", str(options.steps + 1)]
    return Rival(name, "_grpo_trl.py", "--model", options.model, *size, *length, *extra)


def _row(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    def median(key: str) -> float:
        return statistics.median(step[key] for step in found)

    return {
        "side": name,
        "seconds": median("seconds"),
        "generate_s": median("generate_s"),
        "train_s": median("train_s"),
        "length": statistics.mean(step["length"] for step in found),
        "trained_tokens": statistics.mean(step["trained_tokens"] for step in found),
        "step_peak_gb": max(step["step_peak_gb"] for step in found),
        "peak_gb": max(step["peak_gb"] for step in found),
    }


def _ratios(sides: dict[str, dict[str, Any]]) -> dict[str, float]:
    ours, theirs = sides["rft"], sides["trl"]
    ratios = {
        "speedup": theirs["seconds"] / ours["seconds"],
        "memory_ratio": ours["peak_gb"] / theirs["peak_gb"],
        "step_memory_ratio": ours["step_peak_gb"] / theirs["step_peak_gb"],
        "generate_speedup": theirs["generate_s"] / ours["generate_s"],
        "train_speedup": theirs["train_s"] / ours["train_s"],
    }
    for name in ("none", "masters"):
        if (side := sides.get(f"rft {name}")) is not None:
            ratios[f"speedup_{name}"] = theirs["seconds"] / side["seconds"]
            ratios[f"memory_ratio_{name}"] = side["peak_gb"] / theirs["peak_gb"]
    return ratios


def _say(result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    print(table(rows))
    for name, value in result.items():
        if isinstance(value, float):
            print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    main()
