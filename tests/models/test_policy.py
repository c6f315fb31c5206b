"""The trained model: loaded, named, scored, and saved so that transformers takes it back unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rft.errors import ModelError
from rft.models.policy import Policy, load_tokenizer, pick_dtype
from rft.recipe.schema import AdapterSpec, ModelSpec

TINY = ModelSpec(source="tiny")
LORA = ModelSpec(source="tiny", adapter=AdapterSpec(rank=4, alpha=8))


def load(folder: Path, spec: ModelSpec = TINY, **options) -> Policy:
    return Policy.load(spec, folder, **({"dtype": "float32"} | options))


def stir(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.trained_parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(3, 23)[None]).logits


# --- dtype and tokenizer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("avx512", "amx", "picked"),
    [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")],
)
def test_auto_dtype_is_half_only_where_the_processor_multiplies_it(monkeypatch, avx512, amx, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert pick_dtype("auto") == picked
    assert pick_dtype("float32") == "float32" and pick_dtype("bfloat16") == "bfloat16"


def test_a_chat_template_of_the_recipe_replaces_the_models(tiny_model_dir, tmp_path):
    mine = tmp_path / "mine.jinja"
    mine.write_text("{{ messages[0].content }}!")
    tokenizer = load_tokenizer(tiny_model_dir, ModelSpec(source="tiny", chat_template=str(mine)))
    messages = [{"role": "user", "content": "hey"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "hey!"
    with pytest.raises(ModelError, match="cannot read .*gone.jinja: No such file"):
        load_tokenizer(tiny_model_dir, ModelSpec(source="tiny", chat_template=str(tmp_path / "gone.jinja")))


def test_an_architecture_transformers_does_not_know_is_the_users_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    with pytest.raises(ModelError, match="transformers cannot load tiny: .*no_such_model"):
        load(tmp_path)


# --- names and scores ------------------------------------------------------------------------------


def test_base_parameters_have_the_models_own_names_with_and_without_an_adapter(tiny_model_dir, tiny_model):
    own = [name for name, _ in tiny_model.named_parameters()]
    assert "lm_head.weight" not in own  # tied: named once
    for spec in (TINY, LORA):
        policy = load(tiny_model_dir, spec)
        named = dict(policy.base_parameters())
        assert sorted(named) == sorted(own)
        for name, parameter in tiny_model.named_parameters():
            assert torch.equal(named[name], parameter), name


def test_what_is_trained_is_everything_or_the_adapter(tiny_model_dir):
    whole, adapted = load(tiny_model_dir), load(tiny_model_dir, LORA)
    assert len(whole.trained_parameters()) == len(list(whole.base_parameters()))
    trained = {id(parameter) for parameter in adapted.trained_parameters()}
    assert len(trained) == 2 * 7 * 2  # A and B of seven linear layers in each of two blocks
    assert not trained & {id(parameter) for _, parameter in adapted.base_parameters()}


def test_scores_are_log_probabilities_of_each_token_given_those_before(tiny_model_dir, tiny_model):
    prompt, completion = [5, 6, 7], [8, 200, 9]
    scored = load(tiny_model_dir).score(prompt, completion)
    for place, token in enumerate(completion):
        seen = torch.tensor([prompt + completion[:place]])
        with torch.no_grad():
            alone = tiny_model(input_ids=seen).logits[0, -1].log_softmax(-1)[token]
        assert scored[place].item() == pytest.approx(alone.item(), abs=1e-5)
    assert scored.shape == (3,) and not scored.requires_grad


def test_scoring_ignores_dropout_and_leaves_the_mode_as_it_was(tiny_model_dir):
    spec = ModelSpec(source="tiny", adapter=AdapterSpec(rank=4, dropout=0.5))
    policy = load(tiny_model_dir, spec)
    stir(policy)
    policy.model.train()
    assert torch.equal(policy.score([5, 6], [7, 8]), policy.score([5, 6], [7, 8]))
    assert policy.model.training


def test_gradient_checkpointing_changes_memory_and_no_gradient(tiny_model_dir):
    ids = torch.arange(3, 23)[None]
    gradients = []
    for spec in (LORA, LORA.model_copy(update={"gradient_checkpointing": "full"})):
        torch.manual_seed(0)
        policy = load(tiny_model_dir, spec)
        stir(policy)
        policy.model.train()
        policy.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in policy.trained_parameters()])
    assert all(gradient is not None for gradient in gradients[1])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


# --- saving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_model_is_what_transformers_loads(tiny_model_dir, tmp_path, dtype):
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = load(tiny_model_dir, dtype=dtype)
    stir(policy)
    policy.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == getattr(torch, dtype)
    assert torch.equal(logits(loaded), logits(policy.model))
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert "lm_head.weight" not in stored.keys()  # noqa: SIM118  # not a dict
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (tiny_model_dir, tmp_path)
    )
    assert {key: value for key, value in after.items() if value != before.get(key)} == (
        {} if dtype == "float32" else {"dtype": "bfloat16"}
    )
    assert (tmp_path / "generation_config.json").is_file()
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == policy.tokenizer.chat_template


def test_parameters_that_are_slices_of_one_tensor_are_saved_apart(tiny_model_dir, tmp_path):
    from transformers import AutoModelForCausalLM

    policy = load(tiny_model_dir)
    layer = policy.model.model.layers[0].mlp
    fused = torch.cat([layer.gate_proj.weight.data, layer.up_proj.weight.data])
    layer.gate_proj.weight.data, layer.up_proj.weight.data = fused[:128], fused[128:]
    stir(policy)
    policy.save(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(policy.model))
    assert (tmp_path / "model.safetensors").stat().st_size < 1.2 * sum(
        4 * parameter.numel() for _, parameter in policy.base_parameters()
    )


def test_a_checkpoint_of_all_weights_replaces_the_models(tiny_model_dir, tmp_path):
    policy = load(tiny_model_dir)
    stir(policy)
    policy.save(tmp_path)
    again = load(tiny_model_dir, weights_from=tmp_path)
    assert torch.equal(logits(again.model), logits(policy.model))


def test_an_adapter_is_saved_alone_and_goes_on_being_trained(tiny_model_dir, tiny_model, tmp_path):
    from peft import PeftModel

    policy = load(tiny_model_dir, LORA)
    stir(policy)
    policy.save(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 100_000
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_model, tmp_path)), logits(policy.model))
    again = load(tiny_model_dir, LORA, weights_from=tmp_path)
    assert torch.equal(logits(again.model), logits(policy.model))
    assert len(again.trained_parameters()) == len(policy.trained_parameters())


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"targets": ["no_such_proj"]}, "model.adapter.targets: .*no_such_proj"),
        ({"args": {"no_such_argument": 1}}, "model.adapter.args: .*no_such_argument"),
    ],
)
def test_an_adapter_that_fits_nothing_is_the_users_error(tiny_model_dir, adapter, said):
    with pytest.raises(ModelError, match=said):
        load(tiny_model_dir, ModelSpec(source="tiny", adapter=AdapterSpec(**adapter)))
