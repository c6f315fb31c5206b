"""Starts an engine: which vLLM arguments the recipe, the model and the machine lead to.

Everything the recipe leaves open is computed here; everything it says goes through unchanged.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rft.errors import EngineError, ModelError
from rft.recipe.schema import EngineSpec

if TYPE_CHECKING:
    from rft.engine.vllm import VLLMEngine

log = logging.getLogger("rft")

_BLOCK = 32  # tokens per cache block on a CPU: small, so that short prompts of one group share theirs
_GIB = 1024**3
_LONGEST = 300  # characters of vLLM's explanations


def prepare_process() -> None:
    """Environment that vLLM and OpenMP read once, at import. Values the user has set win."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # keep the core in this process
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
    # A library of vLLM's server gives the root logger this level; its default would hide our warnings.
    os.environ.setdefault("SAGEMAKER_CONTAINER_LOG_LEVEL", "WARNING")
    # Huge pages for large tensors, where the kernel lets a process ask: the heap then fragments less, which
    # saves a quarter of what an update adds to memory.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # vLLM makes torch.set_num_threads a no-op, so the number is fixed before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))


def open_engine(
    spec: EngineSpec,
    model_dir: Path,
    *,
    dtype: str,
    max_model_len: int,
    max_num_seqs: int,
    seed: int,
    plain_weights: bool,
    served_name: str = "model",
    lora_rank: int | None = None,
    trust_remote_code: bool = False,
) -> VLLMEngine:
    """Loads `model_dir` into vLLM in this process and warms it up.

    Args:
        spec: the recipe's `engine:` section; its explicit values win over the arguments here.
        dtype: "float32" or "bfloat16", of the engine's weights.
        max_model_len: tokens, prompt plus completion; used when the recipe does not say.
        max_num_seqs: requests decoded together; likewise.
        plain_weights: keep weights as tensors the trainer can write (training), or let vLLM repack
            them for speed (serving and evaluation only).
        served_name: the model's label in metrics and in the OpenAI API.
        lora_rank: room for adapters of this rank; None for none.

    Raises:
        ModelError: vLLM does not know the architecture, or the cache does not fit into memory.
    """
    prepare_process()
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    from rft.engine.loader import PLAIN
    from rft.engine.vllm import VLLMEngine

    if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] != "0":
        raise EngineError("VLLM_ENABLE_V1_MULTIPROCESSING must be 0: the engine has to live in this process")
    max_model_len = spec.max_model_len or max_model_len
    max_num_seqs = spec.max_num_seqs or max_num_seqs
    args: dict[str, Any] = {
        "model": str(model_dir),
        "served_model_name": served_name,
        "dtype": dtype,
        "seed": seed,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "load_format": PLAIN if plain_weights else "auto",
        "trust_remote_code": trust_remote_code,
        # What the trainer computes is log p after temperature; the sampler must report the same.
        "logprobs_mode": "processed_logprobs",
        # A model's generation_config must not change what the recipe says about sampling.
        "generation_config": "vllm",
    }
    if lora_rank is not None:
        args |= {"enable_lora": True, "max_loras": 2, "max_lora_rank": _round_up_rank(lora_rank)}
    if lora_rank is not None and current_platform.is_cpu():
        from rft.engine import lora

        lora.install()
    if current_platform.is_cpu():
        from rft.engine import norm

        norm.install()
        args |= {
            "ir_op_priority": norm.PRIORITY,
            "enforce_eager": True,  # compiling costs two minutes at start and gains a third in decoding
            "block_size": _BLOCK,
            # A seeded request whose prompt is split crashes vLLM's CPU sampler; so prompts stay whole.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_model_len, 4096),
            "kv_cache_memory_bytes": _cache_bytes(
                spec, model_dir, dtype, max_model_len, max_num_seqs, trust_remote_code
            ),
        }
    else:
        # Scheduling ahead would leave a batch in flight where `paused()` promises that there is none.
        args |= {"gpu_memory_utilization": spec.gpu_memory_utilization, "async_scheduling": False}
        if spec.kv_cache_gb is not None:
            args["kv_cache_memory_bytes"] = int(spec.kv_cache_gb * _GIB)
    args |= spec.args
    log.debug("vLLM arguments: %s", args)
    threads = torch.get_num_threads()
    try:
        engine_args = EngineArgs(**args)
    except TypeError as error:
        raise ModelError(f"engine.args: vLLM does not know an argument: {error}") from error
    try:
        llm = LLMEngine.from_engine_args(engine_args)
    except ValueError as error:  # also pydantic's, which is what vLLM's configuration raises
        raise ModelError(f"vLLM cannot run {model_dir.name}: {_told(error)}") from error
    log.debug("torch threads: %d before vLLM, %d after", threads, torch.get_num_threads())
    return VLLMEngine(llm)


def _round_up_rank(rank: int) -> int:
    """vLLM takes a few sizes of adapter slots only."""
    for size in (8, 16, 32, 64, 128, 256, 320, 512):
        if rank <= size:
            return size
    raise ModelError(f"model.adapter.rank is {rank}; vLLM takes at most 512")


def _told(error: ValueError) -> str:
    """One line of what vLLM says; its longest lists are cut."""
    details = error.errors() if isinstance(error, ValidationError) else []
    if details:
        told = "; ".join(": ".join([*map(str, one["loc"]), one["msg"]]) for one in details)
    else:
        told = str(error)
    told = " ".join(told.replace("Value error, ", "").split())
    return told if len(told) <= _LONGEST else told[: _LONGEST - 3] + "..."


def _cache_bytes(
    spec: EngineSpec,
    model_dir: Path,
    dtype: str,
    max_model_len: int,
    max_num_seqs: int,
    trust_remote_code: bool,
) -> int:
    """Bytes of key-value cache on a CPU: every sequence at full length, but at most a quarter of memory."""
    import psutil
    from transformers import AutoConfig

    if spec.kv_cache_gb is not None:
        return int(spec.kv_cache_gb * _GIB)
    config = AutoConfig.from_pretrained(model_dir, trust_remote_code=trust_remote_code).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * head_dim * (4 if dtype == "float32" else 2)
    blocks_per_sequence = -(-max_model_len // _BLOCK) + 1
    wanted = max_num_seqs * blocks_per_sequence * _BLOCK * per_token
    available = psutil.virtual_memory().available
    least = blocks_per_sequence * _BLOCK * per_token * 2
    if least > available // 4:
        raise ModelError(
            f"the key-value cache for two sequences of {max_model_len} tokens needs {least / _GIB:.1f} GiB, "
            f"a quarter of the free memory is {available / 4 / _GIB:.1f} GiB; lower engine.max_model_len "
            "or set engine.kv_cache_gb"
        )
    return int(min(wanted, available // 4))
