"""What an engine is opened with, and what is said when vLLM will not have it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rft.errors import ModelError
from rft.recipe.schema import EngineSpec


def open_tiny(folder: Path, spec: EngineSpec | None = None, **arguments: Any):
    from rft.engine.open import open_engine

    options = {"dtype": "float32", "max_model_len": 128, "max_num_seqs": 4, "seed": 0, "plain_weights": True}
    return open_engine(spec or EngineSpec(), folder, **(options | arguments))


@pytest.mark.parametrize(
    ("spec", "arguments", "said"),
    [
        ({"args": {"max_num_sequences": 3}}, {}, "engine.args: .*'max_num_sequences'"),
        (
            {"args": {"max_num_batched_tokens": "many"}},
            {},
            "max_num_batched_tokens: Input should be a valid int",
        ),
        ({}, {"max_model_len": 5000}, r"tiny: User-specified max_model_len \(5000\) is greater"),
        ({}, {"lora_rank": 600}, "model.adapter.rank is 600"),
    ],
)
def test_arguments_that_vllm_refuses_are_the_users_error_in_one_line(tiny_model_dir, spec, arguments, said):
    with pytest.raises(ModelError, match=said) as error:
        open_tiny(tiny_model_dir, EngineSpec(**spec), **arguments)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_an_architecture_vllm_does_not_know_is_named(tiny_model_dir, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchForCausalLM"]}))
    with pytest.raises(ModelError, match=r"cannot run odd: Model architectures \['NoSuchForCausalLM'\]"):
        open_tiny(folder)


def test_a_cache_for_less_than_two_sequences_is_refused_before_loading(tiny_model_dir, monkeypatch):
    import psutil

    class Little:
        available = 1 << 20

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    with pytest.raises(ModelError, match="two sequences of 1024 tokens needs .* lower engine.max_model_len"):
        open_tiny(tiny_model_dir, max_model_len=1024)


def test_what_the_recipe_says_goes_through(tiny_model_dir):
    spec = EngineSpec(max_model_len=96, max_num_seqs=3, kv_cache_gb=0.01, args={"block_size": 64})
    engine = open_tiny(tiny_model_dir, spec)
    try:
        config = engine.llm.vllm_config
        assert engine.max_model_len == 96
        assert config.scheduler_config.max_num_seqs == 3
        assert config.cache_config.block_size == 64
        assert config.cache_config.kv_cache_memory_bytes == int(0.01 * 1024**3)
    finally:
        engine.close()


def test_multiprocessing_would_put_the_weights_out_of_reach(tiny_model_dir, monkeypatch):
    from rft.errors import EngineError

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(EngineError, match="VLLM_ENABLE_V1_MULTIPROCESSING must be 0"):
        open_tiny(tiny_model_dir)


@pytest.mark.engine
async def test_closing_one_engine_leaves_another_running(engine, tiny_model_dir):
    from rft.engine.base import Sampling

    other = open_tiny(tiny_model_dir)
    both = Sampling(max_tokens=2, seed=0)
    await other.generate([5, 6], both)
    other.close()
    assert (await engine.generate([5, 6], both)).token_ids
