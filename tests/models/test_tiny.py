"""The tiny model is a real model in everything but size."""

from __future__ import annotations

import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rft.models.tiny import build_tiny
from rft.models.tiny import tiny_tokenizer as make_tokenizer

TOKENIZER = make_tokenizer()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, tiny_model_dir):
    build_tiny(tmp_path / "again", seed=0)
    build_tiny(tmp_path / "other", seed=1)
    first = load_file(tiny_model_dir / "model.safetensors")
    again = load_file(tmp_path / "again" / "model.safetensors")
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_building_leaves_the_callers_random_state_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_tiny(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_tied_models_store_one_embedding_and_untied_ones_two(tmp_path, tiny_model_dir):
    build_tiny(tmp_path, tie_word_embeddings=False)
    assert "lm_head.weight" not in load_file(tiny_model_dir / "model.safetensors")
    assert "lm_head.weight" in load_file(tmp_path / "model.safetensors")
    tied = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert tied.lm_head.weight.data_ptr() == tied.model.embed_tokens.weight.data_ptr()


def test_generation_ends_at_the_chat_templates_end_of_turn(tiny_model, tiny_tokenizer):
    assert tiny_tokenizer.convert_tokens_to_ids("<|im_end|>") == tiny_tokenizer.eos_token_id
    assert tiny_model.generation_config.eos_token_id == tiny_tokenizer.eos_token_id
    assert tiny_model.config.eos_token_id == tiny_tokenizer.eos_token_id


def test_chat_turns_are_written_as_chatml(tiny_tokenizer):
    messages = [{"role": "user", "content": "2+2?"}]
    text = tiny_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"


def test_the_chat_markers_are_single_tokens_and_text_is_one_token_a_byte(tiny_tokenizer):
    assert len(tiny_tokenizer("<|im_start|>é!<|im_end|>").input_ids) == 1 + 3 + 1


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_comes_back_from_its_tokens(text):
    assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


def test_saved_special_tokens_survive_loading(tiny_model_dir, tiny_tokenizer):
    assert tiny_tokenizer.pad_token == "<|endoftext|>"
    assert (
        len(tiny_tokenizer) == json.loads((tiny_model_dir / "config.json").read_text())["vocab_size"] == 259
    )
    assert tiny_tokenizer.decode([tiny_tokenizer.eos_token_id], skip_special_tokens=True) == ""
