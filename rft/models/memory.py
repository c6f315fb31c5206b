"""How much memory a model will take, told before any of it is loaded.

A run that dies half an hour in because the optimizer's second moment did not fit has cost more than the
arithmetic below. Counted: weights, gradients, AdamW's two moments, float32 masters, the engine's own weights
(none when it reads the trainer's) and its cache. Activations depend on `train.micro_batch_tokens` and are
covered by a flat allowance together with the libraries.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import psutil

from rft.errors import ModelError

BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOAT_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
_LIBRARIES_AND_ACTIVATIONS_GB = 2.0
_GB = 1e9


def num_parameters(folder: Path) -> int:
    """Parameters of a Hugging Face folder, from the headers of its safetensors files; nothing is loaded.

    A tied output layer counts once, whether or not the file repeats it. Pickled weights (*.bin) have no
    header: there it is the files' size over the size of one value.
    """
    config = json.loads((folder / "config.json").read_text())
    shapes: dict[str, list[int]] = {}
    # Some folders hold the same weights again under another name (consolidated.safetensors), or an adapter.
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    for file in files:
        header = _safetensors_header(file)
        shapes |= {name: entry["shape"] for name, entry in header.items() if entry["dtype"] in _FLOAT_BYTES}
    if shapes:
        if config.get("tie_word_embeddings") and len(shapes) > 1:
            shapes.pop("lm_head.weight", None)
        return sum(prod(shape) for shape in shapes.values())
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    size = sum(file.stat().st_size for file in folder.glob("*.bin"))
    return size // BYTES_PER_VALUE.get(stored, 4)


def _safetensors_header(file: Path) -> dict[str, dict]:
    """Name -> {dtype, shape, data_offsets}. The format: 8 bytes of length, little-endian, then JSON."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length < file.stat().st_size:
            raise ModelError(f"{file} is not a safetensors file or is cut short; fetch or save it again")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header


def estimate_bytes(folder: Path, dtype: str) -> int:
    """Bytes of the weights in `folder` once held as `dtype` ("float32", "bfloat16", "float16")."""
    return num_parameters(folder) * BYTES_PER_VALUE[dtype]


@dataclass(frozen=True)
class MemoryNeed:
    """Gigabytes (1e9 bytes) by purpose.

    >>> need = needed_memory_gb(1_000_000_000, train_dtype="bfloat16", engine_dtype="bfloat16")
    >>> need.weights, need.gradients, need.optimizer, need.master_weights, need.engine_weights
    (2.0, 2.0, 8.0, 4.0, 0.0)
    """

    weights: float
    gradients: float
    optimizer: float
    master_weights: float
    engine_weights: float
    kv_cache: float
    libraries_and_activations: float = _LIBRARIES_AND_ACTIVATIONS_GB

    @property
    def total(self) -> float:
        """All of it, GB."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        parts = [f"{name.replace('_', ' ')} {gb:.1f}" for name, gb in asdict(self).items() if gb >= 0.05]
        return f"{self.total:.1f} GB ({', '.join(parts)})"


def needed_memory_gb(
    num_params: int,
    *,
    train_dtype: str,
    engine_dtype: str,
    master_weights: bool = True,
    adapter_params: int = 0,
    kv_cache_gb: float = 0.0,
    shared: bool = True,
    reference: bool = False,
    critic: bool = False,
) -> MemoryNeed:
    """What training `num_params` parameters beside their engine takes.

    Args:
        num_params: of the whole model.
        train_dtype: of the trained weights and their gradients.
        engine_dtype: when it equals `train_dtype`, the engine reads the trainer's weights and holds none.
        master_weights: float32 copies of what is trained, when that is in less than float32.
        adapter_params: how many parameters are trained when only an adapter is (float32); 0 trains them all.
        kv_cache_gb: the engine's cache.
        shared: whether the engine may read the trainer's weights; it can when the dtypes are equal.
        reference: a frozen copy of the model beside it, for a KL term.
        critic: a value model of its own, trained as the policy is; an adapter's shares the policy's base.
    """
    trained_gb = (adapter_params or num_params) / _GB * (2 if critic else 1)
    trained_bytes = 4 if adapter_params else BYTES_PER_VALUE[train_dtype]
    shared = shared and engine_dtype == train_dtype
    models = 1 + reference + (critic and not adapter_params)
    weights_gb = num_params * BYTES_PER_VALUE[train_dtype] / _GB * models
    return MemoryNeed(
        weights=weights_gb + (4 * trained_gb if adapter_params else 0.0),
        gradients=trained_gb * trained_bytes,
        optimizer=trained_gb * 8,
        master_weights=trained_gb * 4 if master_weights and trained_bytes < 4 else 0.0,
        engine_weights=0.0 if shared else num_params * BYTES_PER_VALUE[engine_dtype] / _GB,
        kv_cache=kv_cache_gb,
    )


def available_memory_gb() -> float:
    """Memory this process can still take, GB: the machine's, or its container's where that is less."""
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        available = min(available, limit - used + int(stat["inactive_file"]))  # page cache gives way
    except (OSError, ValueError, KeyError):
        pass  # no cgroup v2, or no limit ("max"): the machine's own figure stands
    return available / _GB


def require_memory(need: MemoryNeed, *, available_gb: float | None = None) -> None:
    """Passes when `need` fits.

    Args:
        available_gb: of the device that trains; this machine's memory when unset.

    Raises:
        ModelError: how much it needs and for what, how much there is, and what to change.
    """
    available_gb = available_memory_gb() if available_gb is None else available_gb
    if need.total > available_gb:
        raise ModelError(
            f"the model does not fit: training it needs {need}, there is {available_gb:.1f} GB; "
            "train an adapter (model.adapter: {kind: lora}), set model.dtype: bfloat16, lower "
            "engine.kv_cache_gb, or take a smaller model"
        )
