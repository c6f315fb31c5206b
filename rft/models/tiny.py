"""A random two-layer Llama with a byte-level chat tokenizer: made in a second, yet real enough to train.

Everything that is true of a real model folder is true of this one: transformers and vLLM load it as it is,
it has a ChatML template, an end-of-turn token, grouped-query attention, and (by default) tied embeddings.
The head size is 32, the smallest that vLLM's CPU attention takes. The vocabulary of 259 is no multiple of
64, so an engine that pads its embeddings is caught padding.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tiny(
    folder: Path,
    *,
    seed: int = 0,
    num_layers: int = 2,
    num_key_value_heads: int = 1,
    max_position_embeddings: int = 1024,
    tie_word_embeddings: bool = True,
) -> None:
    """Fills `folder` with the model: about 90k float32 parameters, the same ones for the same seed.

    Args:
        folder: made when missing.
        seed: of the random weights; the caller's own random state is left as it was.
        num_key_value_heads: 1 or 2 (of 2 heads).
        max_position_embeddings: longest prompt plus completion, tokens.
        tie_word_embeddings: whether the output layer is the embedding table.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(max_position_embeddings)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=num_key_value_heads,
        head_dim=32,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch.float32)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_tokenizer(model_max_length: int = 1024) -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte, then the three special tokens; any text round-trips exactly."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=model_max_length,
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
