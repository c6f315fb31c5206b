"""A GGUF file becomes a folder that says exactly what the file says."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from rft.errors import ModelError
from rft.models.convert import convert_gguf
from rft.models.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, tiny_tokenizer

HIDDEN, INTERMEDIATE, HEADS = 64, 128, 2


def write_gguf(file: Path) -> dict[str, np.ndarray]:
    """A one-layer Llama with a Q4_1 matrix, as llama.cpp would write it. Returns what its tensors mean."""
    rng = np.random.default_rng(0)
    tokenizer = tiny_tokenizer()
    tokens = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__), "ab"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("written for a test")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    kinds = [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    writer.add_token_types(kinds)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_chat_template(CHAT_TEMPLATE)
    matrices = {
        "token_embd": (len(tokens), HIDDEN),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (HIDDEN, HIDDEN),
        "blk.0.attn_v": (HIDDEN, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_up": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, INTERMEDIATE),
    }
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in matrices.items()}
    values |= {
        name: np.ones(HIDDEN, np.float32) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")
    }
    packed = gguf.quants.quantize(values["blk.0.ffn_down"], gguf.GGMLQuantizationType.Q4_1)
    for name, value in values.items():
        if name == "blk.0.ffn_down":
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        else:
            writer.add_tensor(f"{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    values["blk.0.ffn_down"] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
    return values


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    root = tmp_path_factory.mktemp("gguf")
    meant = write_gguf(root / "small.gguf")
    convert_gguf(root / "small.gguf", root / "out")
    return root / "out", meant


def test_weights_are_float32_and_equal_what_the_file_means(converted):
    folder, meant = converted
    weights = load_file(folder / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"], meant["token_embd"])
    down = weights["model.layers.0.mlp.down_proj.weight"]
    np.testing.assert_array_equal(down, meant["blk.0.ffn_down"])
    bfloat16 = (down.view(np.uint32) & 0xFFFF) == 0
    assert not bfloat16.all(), "the values would survive bfloat16, so this proves nothing"


def test_the_config_speaks_of_plain_weights(converted):
    config = json.loads((converted[0] / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["hidden_size"], config["num_hidden_layers"], config["dtype"]) == (HIDDEN, 1, "float32")


def test_chat_template_end_of_turn_and_context_length_come_along(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted[0])
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.model_max_length == 512
    generation = json.loads((converted[0] / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.eos_token_id


def test_a_file_that_is_no_gguf_is_one_line_that_names_it(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot convert .*broken.gguf: .*causal language model") as caught:
        convert_gguf(tmp_path / "broken.gguf", tmp_path / "out")
    assert "\n" not in str(caught.value)
