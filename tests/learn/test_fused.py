"""Faster norms and gated MLPs: taken only where they compute the same, and then they keep less."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from learn_cases import tiny_llama
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from rft.learn.fused import fuse

IDS = torch.arange(3, 43)[None]


def _loss_and_gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {"loss": loss.detach(), **gradients}


def _kept_bytes(model: nn.Module) -> int:
    """Bytes of activations that a forward keeps for its backward; parameters do not count."""
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=IDS, use_cache=False)
    return sum(kept.values())


@pytest.mark.parametrize("recompute_mlp", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float32, 1e-4), (torch.bfloat16, 0.1)]
)
def test_a_fused_llama_has_the_same_loss_and_gradients(dtype, tolerance, recompute_mlp):
    model = tiny_llama(dtype=dtype)
    expected = _loss_and_gradients(model)
    assert fuse(model, recompute_mlp=recompute_mlp) == {"LlamaRMSNorm": 5, "LlamaMLP": 2}
    for name, found in _loss_and_gradients(model).items():
        torch.testing.assert_close(
            found, expected[name], rtol=0, atol=tolerance * expected[name].abs().max().item(), msg=name
        )


def test_less_is_kept_and_less_still_when_the_mlp_is_computed_again():
    plain = _kept_bytes(tiny_llama())
    fused, recomputing = tiny_llama(), tiny_llama()
    fuse(fused, recompute_mlp=False)
    fuse(recomputing, recompute_mlp=True)
    assert _kept_bytes(fused) < 0.8 * plain
    assert _kept_bytes(recomputing) < 0.75 * _kept_bytes(fused)


def test_an_adapter_trains_as_before_dropout_or_not():
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1))
    model.train()
    twin = copy.deepcopy(model)
    assert fuse(twin, recompute_mlp=True)["LlamaMLP"] == 2
    assert twin.training
    found = []
    for one in (model, twin):
        torch.manual_seed(1)
        found.append(_loss_and_gradients(one))
    assert found[0].keys() == found[1].keys()
    for name, theirs in found[0].items():
        torch.testing.assert_close(found[1][name], theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_a_norm_and_an_activation_of_another_kind_are_left_alone():
    config = transformers.GemmaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    model = transformers.GemmaForCausalLM(config)  # scales by 1 + weight, and its gate is a GELU
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_()
    assert fuse(model, recompute_mlp=False) == {}


def test_a_fused_model_is_copied_with_its_own_weights_and_saved_under_the_same_names(tmp_path):
    model = tiny_llama()
    names = list(model.state_dict())
    fuse(model, recompute_mlp=True)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.norm.weight.zero_()
    assert model(input_ids=IDS).logits.abs().max() > 0 == twin(input_ids=IDS).logits.abs().max()
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert list(again.state_dict()) == names
    torch.testing.assert_close(again(input_ids=IDS).logits, model(input_ids=IDS).logits)


class _RMSNorm(nn.Module):
    """As transformers writes it, with a weight of any shape."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class _UntoldRMSNorm(_RMSNorm):
    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        del self.eps


class _ShiftedRMSNorm(_RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tensor([0.0, 0.0, 0.0, 1.0])


class _OtherShapes(nn.Module):
    """Has a gated MLP's parts, and puts them together in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.up_proj(x)) * self.act_fn(self.gate_proj(x))


@pytest.mark.parametrize(
    ("layer", "replaced"),
    [
        (_RMSNorm(torch.ones(4)), {"_RMSNorm": 1}),
        (_UntoldRMSNorm(torch.ones(4)), {}),
        (_RMSNorm(torch.ones(1, 4)), {}),
        (_ShiftedRMSNorm(torch.ones(4)), {}),
        (_OtherShapes(), {}),
    ],
)
def test_what_only_looks_like_it_is_left_alone(layer, replaced):
    assert fuse(nn.Sequential(layer), recompute_mlp=False) == replaced
