"""The bond between trainer and engine: every way of publishing, proved, and every broken one refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rft.engine.base import Completion, Sampling
from rft.errors import EngineError
from rft.recipe.schema import AdapterSpec, EngineSpec, ModelSpec

pytestmark = pytest.mark.engine

PROBES = [list(range(3, 23)), list(range(40, 55))]


@pytest.fixture(autouse=True)
def as_it_was(engine) -> Iterator[None]:
    """The session's engine gets its own weights back, whatever a test did to them."""
    kept = {name: tensor.detach().clone() for name, tensor in engine.model.state_dict().items()}
    yield
    with engine.paused():
        for name, tensor in engine.model.state_dict().items():
            tensor.data.copy_(kept[name])
        engine.policy_adapter = None
        engine.weights_changed(engine.version)


def load(folder: Path, *, dtype: str = "float32", rank: int | None = None) -> Any:
    from rft.models.policy import Policy

    torch.manual_seed(1)
    adapter = None if rank is None else AdapterSpec(rank=rank)
    return Policy.load(ModelSpec(source="tiny", adapter=adapter), folder, dtype=dtype)


def bind(
    engine: Any, policy: Any, publish: str = "auto", *, tolerance: float = 1e-4, notes: Any = None
) -> Any:
    from rft.engine import weights

    note = (lambda text: None) if notes is None else notes.append
    return weights.bind(engine, policy, publish=publish, tolerance=tolerance, probe_ids=PROBES, note=note)


def ask(engine: Any, prompt: list[int] = PROBES[0], **how: Any) -> Completion:
    sampling = Sampling(**{"max_tokens": 16, "seed": 5, "extra": {"ignore_eos": True}} | how)
    return asyncio.run(engine.generate(prompt, sampling))


def train(policy: Any, steps: int, writing: Callable[[int], Any], rate: float = 1e-2) -> None:
    """Real optimizer steps on a few tokens' likelihood."""
    from rft.learn.optimizer import PolicyOptimizer

    optimizer = PolicyOptimizer(policy.model.named_parameters(), learning_rate=rate, total_steps=steps)
    ids = torch.tensor([PROBES[0]])
    for step in range(steps):
        policy.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        with writing(step + 1):
            assert optimizer.step().applied


# --- shared ----------------------------------------------------------------------------------------


def test_shared_weights_are_the_engines_own_memory(engine, tiny_model_dir):
    from rft.engine.views import engine_views

    policy = load(tiny_model_dir)
    notes: list[str] = []
    weights = bind(engine, policy, notes=notes)
    assert weights.mode == "shared" and not weights.refused
    assert notes[0].startswith("weights: shared (engine and trainer agree to ")
    engines = {tensor.untyped_storage().data_ptr() for tensor in engine.model.parameters()}
    parameters = dict(policy.base_parameters())
    assert {parameter.untyped_storage().data_ptr() for parameter in parameters.values()} <= engines
    views = engine_views(engine.model, {name: parameter.shape for name, parameter in parameters.items()})
    assert {name: view.data_ptr() for name, view in views.items()} == {
        name: parameter.data_ptr() for name, parameter in parameters.items()
    }
    assert policy.model.lm_head.weight is policy.model.model.embed_tokens.weight  # tied ones stay tied


def test_an_optimizer_step_is_in_the_engine_at_once_and_nothing_is_copied(engine, tiny_model_dir):
    policy = load(tiny_model_dir)
    weights = bind(engine, policy)
    version = engine.version
    before = ask(engine)
    train(policy, 3, lambda step: weights.writing(version + step))
    assert engine.version == version + 3
    after = ask(engine)
    assert after.weight_versions == ((version + 3, 0, 16),)
    assert max(abs(a - b) for a, b in zip(before.logprobs, after.logprobs, strict=True)) > 0.01
    published = weights.publish(version + 3)
    assert (published.version, published.mode, published.bytes_copied) == (version + 3, "shared", 0)
    for seed in range(4):
        answer = ask(engine, seed=seed)
        difference_N = policy.score(PROBES[0], answer.token_ids) - torch.tensor(answer.logprobs)
        assert difference_N.abs().mean() < 1e-5 and difference_N.abs().max() < 1e-4
    parity = weights.check()
    assert parity.mean < 1e-5 and parity.max < 1e-4 and parity.num_tokens == 48


def test_the_proof_leaves_every_weight_as_it_was(engine, tiny_model_dir):
    policy = load(tiny_model_dir)
    kept = {name: parameter.detach().clone() for name, parameter in policy.base_parameters()}
    before = ask(engine)
    for publish in ("shared", "copy"):
        bind(engine, policy, publish)
        for name, parameter in policy.base_parameters():
            assert torch.equal(parameter, kept[name]), name
        assert ask(engine).logprobs == before.logprobs


# --- a bond that does not hold ---------------------------------------------------------------------


NAMES = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    *(
        f"model.layers.1.{part}.weight"
        for part in (
            "input_layernorm",
            "post_attention_layernorm",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        )
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_one_parameter_that_does_not_reach_the_engine_is_found(engine, tiny_model_dir, monkeypatch, name):
    from rft.engine import weights as module

    honest = module.engine_views

    def detached(model: Any, shapes: Any) -> Any:
        views = honest(model, shapes)
        return views | {name: views[name].clone()}  # right at rest, and nobody reads it

    monkeypatch.setattr(module, "engine_views", detached)
    policy = load(tiny_model_dir)
    with pytest.raises(
        EngineError, match="no way of publishing .*shared: after a change .* copy: after a change"
    ):
        bind(engine, policy)


def test_two_parameters_taken_for_each_other_are_found_though_they_start_equal(
    engine, tiny_model_dir, monkeypatch
):
    from rft.engine import weights as module

    honest = module.engine_views
    one, other = "model.layers.0.input_layernorm.weight", "model.layers.1.post_attention_layernorm.weight"

    def swapped(model: Any, shapes: Any) -> Any:
        views = honest(model, shapes)
        return views | {one: views[other], other: views[one]}

    monkeypatch.setattr(module, "engine_views", swapped)
    with pytest.raises(EngineError, match="shared: after a change of weights engine and trainer differ"):
        bind(engine, load(tiny_model_dir), "shared")


def test_rows_in_another_order_fall_to_copying_by_vllms_own_loader(engine, tiny_model_dir, monkeypatch):
    from rft.engine import weights as module

    honest = module.engine_views

    def swapped(model: Any, shapes: Any) -> Any:
        views = honest(model, shapes)
        gate, up = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up"))
        return views | {gate: views[up], up: views[gate]}

    monkeypatch.setattr(module, "engine_views", swapped)
    policy = load(tiny_model_dir)
    weights = bind(engine, policy)
    assert weights.mode == "copy"
    assert (
        weights.refused["shared"] == "the engine holds other values for model.layers.0.mlp.gate_proj.weight"
    )
    train(policy, 1, weights.writing)
    assert weights.publish(engine.version + 1).bytes_copied == 4 * sum(
        p.numel() for p in policy.model.parameters()
    )
    assert weights.check().mean < 1e-5


def test_a_refused_way_leaves_the_trainer_memory_of_its_own(engine, tiny_model_dir, monkeypatch):
    from rft.engine.views import BindingError
    from rft.engine.weights import Weights

    def refused(self: Any) -> Any:
        raise BindingError("sabotage")

    policy = load(tiny_model_dir)
    monkeypatch.setattr(Weights, "_prove", refused)
    with pytest.raises(EngineError, match="sabotage"):
        bind(engine, policy, "shared")
    engines = {tensor.untyped_storage().data_ptr() for tensor in engine.model.parameters()}
    assert not engines & {p.untyped_storage().data_ptr() for _, p in policy.base_parameters()}


def test_a_head_that_stays_behind_is_found(engine, tiny_model_dir):
    head = engine.model.lm_head
    kept = head.weight
    del head._parameters["weight"]
    head.weight = kept.detach().clone()  # no longer a parameter: nobody would miss it
    try:
        with pytest.raises(EngineError, match="after a change of weights engine and trainer differ"):
            bind(engine, load(tiny_model_dir))
    finally:
        del head.weight
        head._parameters["weight"] = kept


# --- copy ------------------------------------------------------------------------------------------


def test_another_dtype_is_published_by_copy_and_says_why(engine, tiny_model_dir):
    policy = load(tiny_model_dir, dtype="bfloat16")
    notes: list[str] = []
    weights = bind(engine, policy, tolerance=0.15, notes=notes)
    assert weights.mode == "copy"
    assert "not shared: the engine holds torch.float32, the trainer torch.bfloat16" in notes[0]
    version = engine.version
    train(policy, 2, lambda step: weights.writing(version + step))
    assert engine.version == version  # the engine goes on with the old weights until they are published
    published = weights.publish(version + 1)
    assert published.mode == "copy"
    assert published.bytes_copied == 4 * sum(p.numel() for _, p in policy.base_parameters())
    views = dict(engine.model.named_parameters())
    assert torch.equal(views["model.norm.weight"], policy.model.model.norm.weight.float())
    assert weights.check().mean < 0.15


def test_a_bond_that_breaks_on_the_way_falls_to_copy_and_training_goes_on(engine, tiny_model_dir):
    from rft.engine.views import BindingError

    policy = load(tiny_model_dir)
    weights = bind(engine, policy)
    norm = policy.model.model.norm.weight
    norm.data = norm.data.clone()  # a careless `.to()` somewhere
    with pytest.raises(BindingError, match="model.norm.weight no longer lives in the engine's memory"):
        weights.check()
    parity = weights.fall_back("model.norm.weight moved")
    assert weights.mode == "copy" and weights.refused == {"shared": "model.norm.weight moved"}
    assert parity.mean < 1e-5
    version = engine.version
    train(policy, 2, lambda step: weights.writing(version + step))
    weights.publish(version + 1)
    assert weights.check().mean < 1e-5
    with pytest.raises(BindingError, match="publishing by copy stopped holding: again"):
        weights.fall_back("again")


# --- adapter ---------------------------------------------------------------------------------------


def test_an_adapter_is_swapped_in_place_on_a_shared_base(engine, tiny_model_dir):
    policy = load(tiny_model_dir, rank=4)
    weights = bind(engine, policy)
    assert weights.mode == "adapter" and not weights.refused
    base = ask(engine)
    version = engine.version
    train(policy, 3, lambda step: weights.writing(version + step), rate=0.05)
    assert ask(engine).logprobs == base.logprobs  # not published yet
    published = weights.publish(version + 1)
    assert published.mode == "adapter" and published.bytes_copied > 0
    tuned = ask(engine)
    assert tuned.weight_versions == ((version + 1, 0, 16),)
    assert max(abs(a - b) for a, b in zip(tuned.logprobs, base.logprobs, strict=True)) > 0.01
    parity = weights.check()
    assert parity.mean < 1e-5 and parity.max < 1e-4
    untuned = asyncio.run(
        engine.generate(PROBES[0], Sampling(16, seed=5, extra={"ignore_eos": True}), adapter="base")
    )
    assert untuned.logprobs == pytest.approx(base.logprobs, abs=1e-5)
    folder = weights._adapter_dir
    assert len(list(folder.iterdir())) == 1  # old versions do not pile up
    weights.close()
    assert not folder.exists()


def test_a_request_in_flight_lives_through_an_adapters_swap(engine, tiny_model_dir):
    policy = load(tiny_model_dir, rank=4)
    weights = bind(engine, policy)
    version = engine.version

    async def across() -> Completion:
        sampling = Sampling(300, seed=1, extra={"ignore_eos": True})
        task = asyncio.create_task(engine.generate(PROBES[0], sampling))
        while not await asyncio.to_thread(engine.call, engine.llm.has_unfinished_requests):
            await asyncio.sleep(0)
        for step in (1, 2, 3):
            await asyncio.to_thread(weights.publish, version + step)
            await asyncio.to_thread(engine.call, lambda: None)
        return await task

    answer = asyncio.run(across())
    assert len(answer.token_ids) == len(answer.logprobs) == 300
    assert answer.weight_versions[-1][0] == version + 3
    assert [span[1] for span in answer.weight_versions] == [
        0,
        *(span[2] for span in answer.weight_versions[:-1]),
    ]
    weights.close()


def test_an_adapter_vllm_cannot_take_is_refused_with_its_reason(engine, tiny_model_dir):
    with pytest.raises(EngineError, match="adapter: vLLM refuses the adapter: .*rank"):
        bind(engine, load(tiny_model_dir, rank=16))  # the engine has room for rank 8


# --- probes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", [[7], [5] * 511])
def test_a_probe_may_be_as_short_or_as_long_as_a_prompt(engine, tiny_model_dir, probe):
    from rft.engine import weights

    weights.bind(
        engine,
        load(tiny_model_dir),
        publish="shared",
        tolerance=1e-4,
        probe_ids=[probe],
        note=lambda text: None,
    )


# --- other architectures ----------------------------------------------------------------------------


def _config(kind: str) -> Any:
    import transformers

    common = {
        "vocab_size": 259,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 258,
        "pad_token_id": 256,
        "tie_word_embeddings": kind.endswith("tied") and not kind.endswith("untied"),
    }
    family = kind.split("-")[0]
    return getattr(transformers, f"{family}Config")(**common)


def _save(kind: str, folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    from rft.models.tiny import tiny_tokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(kind), dtype=torch.float32)
    for parameter in model.parameters():  # biases and norms start alike; here nothing shall
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tiny_tokenizer(256).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind",
    ["Llama-untied", "Qwen2-tied", "Qwen3-untied", "Phi3-untied"],
)
def test_every_architecture_shares_and_trains_or_says_why_not(kind, tmp_path):
    """A second engine beside the session's costs a second."""
    from rft.engine.open import open_engine

    folder = _save(kind, tmp_path / kind)
    engine = open_engine(
        EngineSpec(), folder, dtype="float32", max_model_len=96, max_num_seqs=8, seed=0, plain_weights=True
    )
    try:
        policy = load(folder)
        weights = bind(engine, policy)
        assert weights.mode == "shared", weights.refused
        train(policy, 3, lambda step: weights.writing(step), rate=3e-3)
        parity = weights.check()
        assert parity.mean < 1e-5 and parity.max < 1e-4
    finally:
        engine.close()


def test_bfloat16_weights_are_proved_as_closely_as_their_rounding_allows(tmp_path):
    from rft.engine.open import open_engine
    from rft.engine.views import BindingError

    folder = _save("Llama-untied", tmp_path / "llama")
    engine = open_engine(
        EngineSpec(), folder, dtype="bfloat16", max_model_len=96, max_num_seqs=8, seed=0, plain_weights=True
    )
    try:
        policy = load(folder, dtype="bfloat16")
        weights = bind(engine, policy, tolerance=0.15)
        assert weights.mode == "shared", weights.refused
        train(policy, 3, lambda step: weights.writing(step), rate=3e-3)
        assert weights.check().mean < 0.01
        # One of many weights that the engine has no part in is still found out.
        weights._part()
        weights._base_is_shared, weights.mode = False, "copy"
        left_out = weights._views.pop("model.layers.0.self_attn.o_proj.weight")
        weights._views["model.layers.0.self_attn.o_proj.weight"] = torch.empty_like(left_out)
        with pytest.raises(BindingError, match="after a change of weights engine and trainer differ"):
            weights._prove()
    finally:
        engine.close()


def test_a_parameter_without_a_counterpart_is_named(engine):
    from rft.engine.views import BindingError, engine_views

    with pytest.raises(BindingError, match="no tensor for model.layers.0.mlp.router.weight"):
        engine_views(engine.model, {"model.layers.0.mlp.router.weight": torch.Size([4, 64])})
    with pytest.raises(BindingError, match=r"model.norm.weight is \(32,\) here and \(64,\) in the engine"):
        engine_views(engine.model, {"model.norm.weight": torch.Size([32])})
