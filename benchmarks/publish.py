"""Publishing weights to the engine: seconds, bytes copied, and whether engine and trainer agree afterwards.

    .venv/bin/python benchmarks/publish.py

Three ways: `shared` (float32 trainer and engine on the same memory), `copy` (float32 trainer, bfloat16
engine) and `adapter` (LoRA rank 16). Between two publications every trained weight moves by a real AdamW
step on a language-modelling loss, whose time does not count; holding the engine, dropping its stale caches
and moving bytes does. Parity is |log p(engine) - log p(trainer)| on tokens the engine samples.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _common import Turns, show, table

WAYS = ("shared", "copy", "adapter")
PROMPTS = ("Sort these numbers from smallest to largest: 42 7 19 3", "What is a weight in a neural network?")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct")
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        _publish(options)
        return
    import json

    rows = []
    for way in WAYS:  # a process each: one engine at a time
        command = [sys.executable, str(Path(__file__)), "--way", way, "--model", options.model]
        done = subprocess.run([*command, "--updates", str(options.updates)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{way} failed:\n{done.stderr[-3000:]}")
        rows.append(json.loads(done.stdout))
        print(f"{way}: {rows[-1]['ms']:.1f} ms", file=sys.stderr)
    show({"ways": rows}, options.json, lambda: print(table(rows)))


def _publish(options: argparse.Namespace) -> None:
    turns = Turns()
    from rft.engine.open import open_engine, prepare_process
    from rft.models.source import locate
    from rft.recipe.schema import AdapterSpec, EngineSpec, ModelSpec

    prepare_process()
    import torch

    from rft.engine.weights import bind
    from rft.learn.optimizer import PolicyOptimizer
    from rft.models.policy import Policy

    folder = locate(options.model)
    adapter = AdapterSpec() if options.way == "adapter" else None
    engine_dtype = "bfloat16" if options.way == "copy" else "float32"
    engine = open_engine(
        EngineSpec(kv_cache_gb=0.3),
        folder,
        dtype=engine_dtype,
        max_model_len=128,
        max_num_seqs=16,
        seed=0,
        plain_weights=True,
        lora_rank=adapter.rank if adapter else None,
    )
    policy = Policy.load(ModelSpec(source=options.model, adapter=adapter), folder, dtype="float32")
    probe_ids = [policy.tokenizer(text)["input_ids"] for text in PROMPTS]
    tolerance = 0.15 if options.way == "copy" else 1e-4
    weights = bind(engine, policy, publish=options.way, tolerance=tolerance, probe_ids=probe_ids)
    optimizer = PolicyOptimizer(
        policy.model.named_parameters(), learning_rate=2e-5, total_steps=options.updates
    )
    seconds: list[float] = []
    parities = []
    for version in range(1, options.updates + 1):
        for ids in probe_ids:
            ids_1T = torch.tensor([ids])
            policy.model(input_ids=ids_1T, labels=ids_1T).loss.backward()
        began = time.perf_counter()
        with weights.writing(version):  # shared weights are published here, the engine held still
            wrote = time.perf_counter()
            optimizer.step()
            held = wrote - began
            wrote = time.perf_counter()
        seconds.append(held + time.perf_counter() - wrote)
        published = weights.publish(version)
        seconds[-1] += published.seconds
        parities.append(weights.parity())
    turns.say(
        way=options.way,
        engine=engine_dtype,
        ms=1000 * statistics.median(seconds),
        slowest_ms=1000 * max(seconds),
        megabytes_copied=published.bytes_copied / 1e6,
        parity_mean=max(parity.mean for parity in parities),
        parity_max=max(parity.max for parity in parities),
    )
    weights.close()
    engine.close()


if __name__ == "__main__":
    main()
