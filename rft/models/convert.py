"""A GGUF file becomes a Hugging Face folder with plain float32 weights.

It runs as a process of its own, so that the gigabyte it takes is gone before an engine is started and the
libraries' progress bars stay out of the terminal. float32, though bfloat16 would halve the folder:
dequantised Q4_1 values are products and sums of half-precision scales, and rounding them to bfloat16 changes
79 % of SmolLM2's weights (by 0.13 % on average). The folder is the starting model every later comparison is
made with, so it keeps exactly what the file says; the trainer and the engine cast as the recipe asks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rft.errors import ModelError


def convert_gguf(file: Path, folder: Path) -> None:
    """Fills `folder` with config, weights, tokenizer, chat template and generation config of `file`.

    Raises:
        ModelError: transformers cannot read the file, with the last line of what it said.
    """
    command = [sys.executable, "-P", "-m", "rft.models.convert", str(file), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ModelError(
            f"cannot convert {file}: {said}; it must be a GGUF file of a causal language model that "
            "transformers knows, and needs the packages transformers and gguf (pip install 'rft-loop[cpu]')"
        )


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # Some releases of transformers leave this behind; vLLM would then look for quantised weights.
    vars(model.config).pop("quantization_config", None)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.model_max_length = model.config.max_position_embeddings  # GGUF leaves it at 1e30
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
