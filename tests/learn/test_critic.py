"""The critic reads a state's value where the state is, starts expecting nothing, and stays off the policy."""

from __future__ import annotations

import copy

import pytest
import torch
from learn_cases import random_groups, tiny_llama
from peft import LoraConfig, get_peft_model

from rft.learn.batch import Batch, to_batch
from rft.learn.critic import Critic, overheard, trunk_states
from rft.learn.logprobs import policy_logprobs, unwrapped
from rft.learn.packing import pack
from rft.recipe.schema import AlgorithmSpec, CriticSpec, TrainSpec

KINDS = ["head", "model"]


def _critic(model, kind: str = "head", **changes) -> Critic:
    algorithm = AlgorithmSpec(kind="ppo", critic=CriticSpec(kind=kind, **changes))
    return Critic(model, algorithm, TrainSpec(learning_rate=1e-2))


def _decided(critic: Critic) -> Critic:
    """With weights in its last layer, which starts at zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        critic.head.weight.copy_(torch.randn(critic.head.weight.shape, generator=generator))
        critic.head.bias.fill_(0.5)
    return critic


def _batch(seed: int = 3) -> Batch:
    return to_batch(random_groups(seed, multi_turn=True), mask_truncated=False, min_valid=0.0)


def _rows(batch: Batch, packing: str = "shared"):
    return pack(batch, range(len(batch.sequences)), micro_batch_tokens=64, packing=packing)


def _values(critic: Critic, model, batch: Batch, packing: str = "shared") -> torch.Tensor:
    values_N = torch.full((batch.num_tokens,), float("nan"))
    for row in _rows(batch, packing):
        hidden_TD = trunk_states(unwrapped(model).get_decoder(), row) if critic.on_policy_trunk else None
        values_N[row.index_M] = critic(row, hidden_TD).detach()
    return values_N


def _adapted(seed: int = 0):
    model = get_peft_model(tiny_llama(seed), LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


@pytest.mark.parametrize("packing", ["shared", "packed", "single"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [tiny_llama, _adapted])
def test_a_tokens_value_is_read_from_the_token_before_it(packing, kind, build):
    model = build()
    critic, batch = _decided(_critic(model, kind)), _batch()
    expected = []
    for sequence in batch.sequences:
        states = model(
            input_ids=torch.tensor([sequence.token_ids]), output_hidden_states=True, use_cache=False
        ).hidden_states[-1][0]
        expected += [
            (critic.head.weight[0] * states[position - 1]).sum().item() + 0.5
            for position in sequence.policy_positions
        ]
    values_N = _values(critic, model, batch, packing)
    assert values_N.std() > 0.1
    torch.testing.assert_close(values_N, torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_critic_expects_nothing(kind):
    model = tiny_llama()
    assert _values(_critic(model, kind), model, _batch()).tolist() == [0.0] * _batch().num_tokens


@pytest.mark.parametrize("chunked_head", [True, False])
def test_the_policys_forward_is_overheard_however_its_head_is_computed(chunked_head):
    model = tiny_llama()
    (row, *_) = _rows(_batch())
    with overheard(model) as states:
        policy_logprobs(model, row, temperature=1.0, chunk=8, chunked_head=chunked_head)
    (hidden_TD,) = states
    torch.testing.assert_close(hidden_TD, trunk_states(model.model, row))
    trunk_states(model.model, row)
    assert len(states) == 1, "nothing is overheard afterwards"


def test_a_head_needs_the_policys_states():
    (row, *_) = _rows(_batch())
    with pytest.raises(ValueError, match="hidden states"):
        _critic(tiny_llama())(row)


def test_a_separate_critic_has_its_own_copy_of_all_that_is_trained():
    model = tiny_llama()
    critic = _critic(model, "model")
    ours = {parameter.data_ptr() for parameter in critic.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in model.parameters()}
    assert not any("lm_head" in name for name, _ in critic.named_parameters())
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_under_an_adapter_a_separate_critic_is_a_second_adapter_on_the_same_base():
    model = _adapted()
    critic = _critic(model, "model")
    policys = {parameter.data_ptr(): name for name, parameter in model.named_parameters()}
    for name, parameter in critic.trunk.named_parameters():
        shared = parameter.data_ptr() in policys
        assert shared == (not parameter.requires_grad) == ("lora_" not in name), name


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_float32_in_half_precision_too(kind):
    model = tiny_llama(dtype=torch.bfloat16)
    critic, batch = _decided(_critic(model, kind)), _batch()
    (row, *_) = _rows(batch)
    hidden_TD = trunk_states(model.model, row)
    with torch.autocast("cpu", torch.bfloat16):
        values_M = critic(row, hidden_TD)
    assert values_M.dtype == torch.float32
    exact_M = hidden_TD[row.source_M].float() @ critic.head.weight[0] + 0.5
    torch.testing.assert_close(values_M, exact_M, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_goes_on_exactly_where_it_was(kind, dtype):
    model = tiny_llama(dtype=dtype)
    (row, *_) = _rows(_batch())

    def learn(critic: Critic) -> None:
        hidden_TD = None if kind == "model" else trunk_states(model.model, row).detach()
        (critic(row, hidden_TD) - 1.0).square().mean().backward()
        critic.optimizer.step()

    critic = _critic(model, kind)
    learn(critic)
    stored = copy.deepcopy(critic.state())
    again = _critic(model, kind)
    again.restore(stored)
    learn(critic)
    learn(again)
    for (name, ours), theirs in zip(again.named_parameters(), critic.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert not torch.equal(stored["parameters"]["head.weight"], critic.head.weight)


def test_one_step_moves_the_values_of_any_width_by_hundredths():
    for width in (32, 256):
        model = tiny_llama(hidden_size=width)
        critic, batch = _critic(model), _batch()
        (row, *_) = _rows(batch)
        hidden_TD = trunk_states(model.model, row).detach()
        (critic(row, hidden_TD) - 1.0).square().mean().backward()
        critic.optimizer.step()
        assert 0.005 < critic(row, hidden_TD).abs().mean() < 0.1, width


def test_a_critic_of_another_kind_is_refused():
    model = tiny_llama()
    with pytest.raises(ValueError, match="another model"):
        _critic(model, "model").restore(_critic(model, "head").state())


def test_learning_rates_when_the_recipe_names_none():
    model = tiny_llama()
    assert _critic(model, "head").optimizer.learning_rate == pytest.approx(0.05 / 32)
    assert _critic(model, "model").optimizer.learning_rate == pytest.approx(1e-2)
    assert _critic(model, "head", learning_rate=3e-4).optimizer.learning_rate == pytest.approx(3e-4)


def test_its_schedule_ends_with_the_run_though_the_policys_begins_later():
    algorithm = AlgorithmSpec(kind="ppo", num_iterations=2, minibatches=3, critic=CriticSpec(warmup_steps=1))
    train = TrainSpec(steps=5, learning_rate=1e-3, optimizer={"schedule": "linear"})
    optimizer = Critic(tiny_llama(), algorithm, train).optimizer
    started = optimizer.learning_rate
    optimizer.steps = 15
    assert optimizer.learning_rate == pytest.approx(started / 2)
    optimizer.steps = 30
    assert optimizer.learning_rate == pytest.approx(0.0, abs=1e-12)
