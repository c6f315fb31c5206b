"""Which models may share prompts and have their head in chunks: what is wrong must be noticed."""

from __future__ import annotations

import pytest
import torch
import transformers
from learn_cases import tiny_llama

from rft.learn.attention import TREES
from rft.learn.probe import probe


def _tiny(name: str, **changes) -> torch.nn.Module:
    config = getattr(transformers, f"{name}Config")(
        **{
            "vocab_size": 61,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "pad_token_id": 0,
            **changes,
        }
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.25)
    return model


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Gemma", "Gemma3Text"])
def test_plain_causal_attention_shares_prompts_and_chunks_its_head(name):
    model = _tiny(name)
    abilities = probe(model, share_prompts=True, longest=100)
    assert (abilities.packing, abilities.chunked_head, abilities.reasons) == ("shared", True, ())
    assert model.config._attn_implementation == TREES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_verdict_does_not_depend_on_the_dtype(dtype):
    assert probe(tiny_llama(dtype=dtype), share_prompts=True).packing == "shared"


def test_a_soft_cap_or_a_scale_on_the_logits_is_noticed():
    for model in (_tiny("Gemma2", final_logit_softcapping=1.0), _tiny("Cohere", logit_scale=0.25)):
        abilities = probe(model, share_prompts=True, longest=100)
        assert not abilities.chunked_head
        assert abilities.packing == "shared", "the trunk is plain attention all the same"


def test_what_is_noticed_is_a_share_of_the_spread():
    # Its log-probabilities lie within a thousandth of each other, so every other head is as near in nats.
    model = _tiny("Cohere", logit_scale=0.25)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-4)
    assert not probe(model, share_prompts=True, longest=100).chunked_head


def test_a_head_with_a_bias_is_not_chunked_even_while_the_bias_is_zero():
    assert not probe(_tiny("Phi"), share_prompts=True).chunked_head


def test_a_sliding_window_shares_only_when_no_sequence_can_outgrow_it():
    model = _tiny("Mistral", sliding_window=50)
    assert probe(model, share_prompts=True, longest=50).packing == "shared"
    for longest in (51, None):
        abilities = probe(_tiny("Mistral", sliding_window=50), share_prompts=True, longest=longest)
        assert abilities.packing == "packed"
        assert "sliding_window is 50" in abilities.reasons[0]


def test_a_second_probe_with_longer_sequences_takes_sharing_back():
    model = _tiny("Mistral", sliding_window=50)
    assert probe(model, share_prompts=True, longest=50).packing == "shared"
    assert probe(model, share_prompts=True, longest=51).packing == "packed"
    assert model.config._attn_implementation == "sdpa", "tree attention knows no window"


def test_a_model_that_carries_state_along_the_row_gets_rows_of_its_own():
    model = _tiny("Qwen3Next", layer_types=["linear_attention", "full_attention"], num_experts=0)
    abilities = probe(model, share_prompts=True)
    assert abilities.packing == "single"
    assert len(abilities.reasons) == 4, "two packings under two attentions"
    assert model.config._attn_implementation == "sdpa", "what was refused is put back"


def test_sharing_is_not_tried_when_not_wanted():
    model = tiny_llama()
    assert probe(model, share_prompts=False).packing == "packed"
    assert model.config._attn_implementation == TREES, "rows of many sequences are cheaper tree by tree"


def test_the_models_mode_is_put_back():
    model = tiny_llama().train()
    probe(model, share_prompts=True)
    assert model.training
