"""The model that is trained: a Hugging Face causal language model, whole or with a LoRA adapter.

It is loaded into ordinary memory here; `rft.engine.weights` may later move its parameters onto the
engine's own tensors, which changes where they live and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from rft.errors import ModelError
from rft.recipe.schema import ModelSpec

ADAPTER_PREFIX = "base_model.model."
"""What peft puts before every name of the model it wraps."""


def pick_dtype(asked: str) -> str:
    """ "float32" or "bfloat16"; "auto" is bfloat16 where the processor multiplies it natively."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    # Without these instructions bfloat16 products are emulated and slower than float32.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def load_tokenizer(folder: Path, spec: ModelSpec) -> Any:
    """The model's tokenizer, with the recipe's chat template where it names one.

    Raises ModelError when the template file cannot be read.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=spec.trust_remote_code)
    if spec.chat_template is not None:
        try:
            tokenizer.chat_template = Path(spec.chat_template).read_text()
        except OSError as error:
            raise ModelError(
                f"model.chat_template: cannot read {spec.chat_template}: {error.strerror}"
            ) from error
    return tokenizer


class Policy:
    """A trainable model and its tokenizer."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, source: str, adapter: bool) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        self.adapter = adapter

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        folder: Path,
        *,
        dtype: str,
        device: str = "cpu",
        weights_from: Path | None = None,
    ) -> Policy:
        """Loads `folder` as `dtype` and adds the recipe's adapter.

        Args:
            weights_from: a checkpoint of this model: all its weights, or its adapter's.

        Raises ModelError for an architecture that transformers does not know as a causal language model.
        """
        try:
            model = AutoModelForCausalLM.from_pretrained(
                weights_from if weights_from is not None and spec.adapter is None else folder,
                dtype=getattr(torch, dtype),
                attn_implementation="sdpa",
                trust_remote_code=spec.trust_remote_code,
            ).to(device)
        except ValueError as error:
            raise ModelError(
                f"transformers cannot load {spec.source}: {str(error).splitlines()[0]}"
            ) from error
        if spec.adapter is not None:
            model = _with_adapter(model, spec, weights_from)
        if spec.gradient_checkpointing == "full":
            model.enable_input_require_grads()  # else nothing above the first checkpoint needs a gradient
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return cls(model, load_tokenizer(folder, spec), source=spec.source, adapter=spec.adapter is not None)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.model.parameters()).device

    def base_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's own parameters under their original names, tied ones once, the adapter's left out."""
        for name, parameter in self.model.named_parameters():
            if "lora_" not in name:
                yield name.removeprefix(ADAPTER_PREFIX).replace(".base_layer.", "."), parameter

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimizer changes."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def score(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Tensor:
        """log p of each completion token at temperature 1 by a plain forward, float32 [completion tokens]."""
        ids_1T = torch.tensor([[*prompt_ids, *completion_ids]], device=self.device)
        was_training = self.model.training
        self.model.eval()
        logits_TV = self.model(input_ids=ids_1T, use_cache=False).logits[0, len(prompt_ids) - 1 : -1].float()
        self.model.train(was_training)
        targets_T1 = ids_1T[0, len(prompt_ids) :, None]
        return logits_TV.log_softmax(-1).gather(1, targets_T1).squeeze(1).cpu()

    def save(self, folder: Path) -> None:
        """Writes a folder that transformers and vLLM load as it is; an adapter in peft's own format."""
        self.saver()(folder)

    def saver(self) -> Callable[[Path], None]:
        """`save` for another thread: nobody may write the parameters until it is done; nothing is copied."""
        seen: dict[tuple[int, torch.Size], Tensor] = {}
        state = {}
        for name, tensor in self.model.state_dict().items():
            if not self.adapter or "lora_" in name:
                place = (tensor.data_ptr(), tensor.shape)
                if place not in seen:  # those that are tied are one tensor, so that they are stored once
                    seen[place] = _alone(tensor)
                state[name] = seen[place]

        def write(folder: Path) -> None:
            self.model.save_pretrained(folder, state_dict=state)  # type: ignore[operator]  # PreTrainedModel or PeftModel
            self.tokenizer.save_pretrained(folder)

        return write


def _alone(tensor: Tensor) -> Tensor:
    """The same memory as a storage of its own: bound parameters are slices of fused tensors, which the writer
    would take for tied ones. Copies only what is on another device or has gaps."""
    tensor = tensor.detach().to("cpu").contiguous()
    return torch.from_numpy(tensor.view(-1).view(torch.uint8).numpy()).view(tensor.dtype).view(tensor.shape)


def _with_adapter(model: nn.Module, spec: ModelSpec, weights_from: Path | None) -> nn.Module:
    from peft import LoraConfig, PeftModel, get_peft_model

    assert spec.adapter is not None
    if weights_from is None and spec.adapter.start is not None:
        weights_from = Path(spec.adapter.start)
        if not (weights_from / "adapter_config.json").is_file():
            raise ModelError(f"model.adapter.start: {weights_from} holds no adapter (adapter_config.json)")
    if weights_from is not None:
        made = PeftModel.from_pretrained(model, weights_from, is_trainable=True)
        rank = made.peft_config["default"].r
        if rank != spec.adapter.rank:
            raise ModelError(f"model.adapter.rank is {spec.adapter.rank}, but {weights_from} has rank {rank}")
        return made
    try:
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=spec.adapter.rank,
            lora_alpha=spec.adapter.alpha,
            lora_dropout=spec.adapter.dropout,
            target_modules=spec.adapter.targets,
            **spec.adapter.args,
        )
        return get_peft_model(model, config)
    except TypeError as error:
        raise ModelError(f"model.adapter.args: {error}") from error
    except ValueError as error:
        raise ModelError(f"model.adapter.targets: {error}") from error
