"""What a model takes is known from its headers, and refused before anything is loaded."""

from __future__ import annotations

import json
import shutil

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from rft.errors import ModelError
from rft.models.memory import (
    MemoryNeed,
    available_memory_gb,
    estimate_bytes,
    needed_memory_gb,
    num_parameters,
    require_memory,
)
from rft.models.tiny import build_tiny


def test_parameters_are_counted_as_torch_counts_them(tiny_model_dir, tiny_model):
    assert num_parameters(tiny_model_dir) == sum(p.numel() for p in tiny_model.parameters())
    assert estimate_bytes(tiny_model_dir, "bfloat16") == 2 * num_parameters(tiny_model_dir)


def test_an_untied_output_layer_counts_of_its_own(tmp_path, tiny_model_dir):
    build_tiny(tmp_path, tie_word_embeddings=False)
    assert num_parameters(tmp_path) == num_parameters(tiny_model_dir) + 259 * 64


def test_a_tied_output_layer_that_the_file_repeats_counts_once(tmp_path, tiny_model_dir):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert num_parameters(folder) == num_parameters(tiny_model_dir)


def test_shards_add_up(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.zeros(3, 5)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": torch.zeros(7)}, tmp_path / "model-00002-of-00002.safetensors")
    assert num_parameters(tmp_path) == 3 * 5 + 7


def test_the_same_weights_under_another_name_count_once(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.zeros(3, 5)}, tmp_path / "model.safetensors")
    save_file({"other.name": torch.zeros(3, 5)}, tmp_path / "consolidated.safetensors")
    assert num_parameters(tmp_path) == 3 * 5


def test_pickled_weights_are_counted_by_their_size(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(2000))
    assert num_parameters(tmp_path) == 1000


def test_a_cut_weights_file_is_a_model_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((10**9).to_bytes(8, "little") + b"{")
    with pytest.raises(ModelError, match="cut short"):
        num_parameters(tmp_path)


def test_float32_training_with_a_shared_engine_takes_sixteen_bytes_a_parameter():
    need = needed_memory_gb(10**9, train_dtype="float32", engine_dtype="float32", kv_cache_gb=3.0)
    assert need == MemoryNeed(
        weights=4.0, gradients=4.0, optimizer=8.0, master_weights=0.0, engine_weights=0.0, kv_cache=3.0
    )
    assert need.total == 4 + 4 + 8 + 3 + need.libraries_and_activations


def test_another_engine_precision_costs_a_second_copy_of_the_weights():
    need = needed_memory_gb(10**9, train_dtype="float32", engine_dtype="bfloat16")
    assert need.engine_weights == 2.0


def test_an_adapter_needs_gradients_and_moments_only_for_itself():
    need = needed_memory_gb(
        10**9, train_dtype="bfloat16", engine_dtype="bfloat16", adapter_params=10**7, master_weights=True
    )
    assert (need.gradients, need.optimizer, need.master_weights) == (0.04, 0.08, 0.0)
    assert need.weights == 2.04


def test_a_model_that_does_not_fit_is_refused_with_need_have_and_ways_out():
    need = needed_memory_gb(10**9, train_dtype="float32", engine_dtype="float32", kv_cache_gb=1.0)
    require_memory(need, available_gb=need.total)
    with pytest.raises(ModelError) as caught:
        require_memory(need, available_gb=8.25)
    said = str(caught.value)
    assert "19.0 GB (weights 4.0, gradients 4.0, optimizer 8.0, kv cache 1.0" in said
    assert "there is 8.2 GB" in said and "kind: lora" in said and "\n" not in said


def test_what_is_available_is_less_than_the_machine_has():
    assert 0 < available_memory_gb() < psutil.virtual_memory().total / 1e9


def test_a_reference_and_an_engine_of_its_own_are_counted():
    common = {"train_dtype": "float32", "engine_dtype": "float32"}
    assert needed_memory_gb(10**9, **common, reference=True).weights == 8.0
    assert needed_memory_gb(10**9, **common, shared=False).engine_weights == 4.0


def test_a_critic_of_its_own_is_a_second_model_or_a_second_adapter():
    half = {"train_dtype": "bfloat16", "engine_dtype": "bfloat16"}
    alone, beside = (needed_memory_gb(10**9, **half, critic=critic) for critic in (False, True))
    assert beside.weights == 2 * alone.weights == 4.0
    assert beside.gradients == 2 * alone.gradients
    assert beside.optimizer == 2 * alone.optimizer
    assert beside.master_weights == 2 * alone.master_weights
    adapter = needed_memory_gb(10**9, **half, adapter_params=10**7, critic=True)
    assert adapter.weights == pytest.approx(2.0 + 2 * 0.04)
    assert adapter.gradients == pytest.approx(2 * 0.04)
