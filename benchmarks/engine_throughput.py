"""Sampled tokens per second: our engine through asyncio against plain `vllm.LLM.generate`, same requests.

    .venv/bin/python benchmarks/engine_throughput.py

Both sides get the same token ids, the same per-request seeds, the same number of tokens to sample (the end
token does not end an answer) and the same vLLM arguments; each is a process of its own and they take turns.
`packed` lets vLLM repack weights for its CPU kernels, which a trainer cannot write; `plain` is what training
runs on, shared with the trainer. vLLM's LLM has the packed weights it has by default. Both return token ids
and the log-probability of each sampled token, as a trainer needs them, and no text.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any

from _common import Rival, Turns, show, table

PROMPT_TOKENS = 40


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "both"], default="both")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24, help="sampled per request")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one to warm up")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--side", choices=["llm", "packed", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        _serve(options)
        return
    dtypes = ["float32", "bfloat16"] if options.dtype == "both" else [options.dtype]
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for dtype in dtypes:  # one after the other: three engines at a time are enough
        speeds = _measure(dtype, options)
        rows += [{"dtype": dtype, "side": side, "tokens/s": speed} for side, speed in speeds.items()]
        ratios |= {
            f"packed/llm {dtype}": speeds["packed"] / speeds["llm"],
            f"plain/llm {dtype}": speeds["plain"] / speeds["llm"],
            f"plain/packed {dtype}": speeds["plain"] / speeds["packed"],
        }
    result = {"requests": options.requests, "tokens": options.tokens, "sides": rows, **ratios}

    def say() -> None:
        print(table(rows))
        for name, ratio in ratios.items():
            print(f"{name}: {ratio:.2f}")

    show(result, options.json, say)


def _measure(dtype: str, options: argparse.Namespace) -> dict[str, float]:
    size = ["--requests", str(options.requests), "--tokens", str(options.tokens), "--model", options.model]
    with ExitStack() as stack:
        rivals = []
        for side in ("llm", "packed", "plain"):
            rivals.append(Rival(side, "engine_throughput.py", "--side", side, "--dtype", dtype, *size))
            stack.callback(rivals[-1].close)
            rivals[-1].read()  # ready: loading three at once would only measure their quarrel
        speeds: dict[str, list[float]] = {rival.name: [] for rival in rivals}
        for number in range(options.rounds + 1):
            for rival in rivals:
                found = rival.step()
                print(f"{dtype} round {number} {rival.name}: {found['speed']:.0f} tokens/s", file=sys.stderr)
                if number:
                    speeds[rival.name].append(found["speed"])
    return {name: statistics.median(found) for name, found in speeds.items()}


def _serve(options: argparse.Namespace) -> None:
    """One side: generates the round's requests whenever asked."""
    turns = Turns()
    from rft.engine.open import prepare_process
    from rft.models.source import locate

    prepare_process()
    folder = locate(options.model)
    generate = _llm(folder, options) if options.side == "llm" else _ours(folder, options)
    turns.say(ready=True)
    for number in range(1 << 30):
        turns.wait()
        prompts = _prompts(number, options.requests)
        began = time.perf_counter()
        sampled = generate(prompts, number)
        turns.say(speed=sampled / (time.perf_counter() - began))


def _prompts(number: int, requests: int) -> list[list[int]]:
    """Eight prompts, each for an eighth of the requests, as a GRPO step asks; new ones each round."""
    import random

    draw = random.Random(number)
    distinct = [[draw.randrange(3, 250) for _ in range(PROMPT_TOKENS)] for _ in range(8)]
    return [distinct[index * 8 // requests] for index in range(requests)]


def _llm(folder: Any, options: argparse.Namespace) -> Any:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(folder),
        dtype=options.dtype,
        seed=0,
        enforce_eager=True,
        disable_log_stats=True,
        logprobs_mode="processed_logprobs",
        **_engine_args(options),
    )

    def generate(prompts: list[list[int]], number: int) -> int:
        params = [
            SamplingParams(
                max_tokens=options.tokens,
                temperature=1.0,
                seed=number * 1000 + index,
                ignore_eos=True,
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
            )
            for index in range(len(prompts))
        ]
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate


def _ours(folder: Any, options: argparse.Namespace) -> Any:
    import asyncio

    from rft import background
    from rft.engine.base import Sampling
    from rft.engine.open import open_engine
    from rft.recipe.schema import EngineSpec

    args = _engine_args(options)
    engine = open_engine(
        EngineSpec(args=args),
        folder,
        dtype=options.dtype,
        max_model_len=args["max_model_len"],
        max_num_seqs=args["max_num_seqs"],
        seed=0,
        plain_weights=options.side == "plain",
    )

    async def all_of(prompts: list[list[int]], number: int) -> int:
        asked = [
            Sampling(max_tokens=options.tokens, seed=number * 1000 + index, extra={"ignore_eos": True})
            for index in range(len(prompts))
        ]
        done = await asyncio.gather(*map(engine.generate, prompts, asked))
        return sum(len(completion.token_ids) for completion in done)

    return lambda prompts, number: background.run(all_of(prompts, number))


def _engine_args(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "max_model_len": PROMPT_TOKENS + options.tokens + 8,
        "max_num_seqs": options.requests,
        "block_size": 32,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": 4096,
        "kv_cache_memory_bytes": 1 << 30,
    }


if __name__ == "__main__":
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    main()
