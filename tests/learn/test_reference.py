"""The reference stands in for the policy and leaves no trace; it follows where it is told to."""

from __future__ import annotations

import pytest
import torch
from learn_cases import tiny_llama
from peft import LoraConfig, get_peft_model

from rft.learn.reference import Reference
from rft.recipe.schema import KLSpec

IDS = torch.tensor([[5, 9, 2, 7]])


def _adapter():
    return get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))


@torch.no_grad()
def _move(model, amount: float) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += amount


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    return model(IDS).logits


def _full() -> tuple[torch.nn.Module, Reference]:
    policy = tiny_llama()
    return policy, Reference(policy, KLSpec(), tiny_llama())


def _disabled() -> tuple[torch.nn.Module, Reference]:
    policy = _adapter()
    return policy, Reference(policy, KLSpec())


def _copied() -> tuple[torch.nn.Module, Reference]:
    policy = _adapter()
    return policy, Reference(policy, KLSpec(sync_every=5))


@pytest.mark.parametrize("kind", [_full, _disabled, _copied])
def test_it_stays_at_the_start_while_the_policy_moves(kind):
    policy, reference = kind()
    start = _logits(policy)
    _move(policy, 0.05)
    moved = _logits(policy)
    assert (moved - start).abs().max() > 1e-3
    memory = {name: one.data_ptr() for name, one in policy.named_parameters()}
    with reference.active():
        torch.testing.assert_close(_logits(policy), start)
    assert torch.equal(_logits(policy), moved)
    assert {name: one.data_ptr() for name, one in policy.named_parameters()} == memory


def test_the_policy_is_back_after_an_error():
    policy, reference = _full()
    _move(policy, 0.05)
    moved = _logits(policy)
    with pytest.raises(RuntimeError, match="inside"), reference.active():
        raise RuntimeError("inside")
    assert torch.equal(_logits(policy), moved)


@pytest.mark.parametrize("mix", [1.0, 0.25])
@pytest.mark.parametrize("adapter", [True, False])
def test_it_moves_towards_the_policy_every_so_many_updates(adapter, mix):
    policy = _adapter() if adapter else tiny_llama()
    kl = KLSpec(sync_every=2, sync_mix=mix)
    reference = Reference(policy, kl, None if adapter else tiny_llama())
    start = {name: one.detach().clone() for name, one in policy.named_parameters() if one.requires_grad}
    _move(policy, 1.0)
    assert [reference.follow() for _ in range(2)] == [False, True]
    with reference.active():
        for name, one in policy.named_parameters():
            if one.requires_grad:
                torch.testing.assert_close(one.data, start[name] + mix)


def test_without_following_it_never_moves():
    _, reference = _full()
    assert not any(reference.follow() for _ in range(4))
    assert reference.state()["tensors"] == {}, "nothing to keep that the start does not give"


def test_it_goes_on_where_it_was():
    kl = KLSpec(sync_every=2, sync_mix=0.5)
    policy = tiny_llama()
    reference = Reference(policy, kl, tiny_llama())
    for amount in (0.1, 0.2, 0.3):
        _move(policy, amount)
        reference.follow()
    again = Reference(policy, kl, tiny_llama())
    again.restore(reference.state())
    _move(policy, 0.4)
    assert reference.follow()
    assert again.follow()
    with reference.active():
        expected = _logits(policy)
    with again.active():
        assert torch.equal(_logits(policy), expected)


def test_a_state_of_another_model_is_refused():
    policy = tiny_llama()
    reference = Reference(policy, KLSpec(sync_every=1), tiny_llama())
    state = reference.state()
    strange = {**state, "tensors": {**state["tensors"], "strange": torch.zeros(1)}}
    with pytest.raises(ValueError, match="another model; differing: strange"):
        reference.restore(strange)


def test_full_training_needs_the_starting_model():
    with pytest.raises(ValueError, match="give a reference model, or train an adapter"):
        Reference(tiny_llama(), KLSpec())
