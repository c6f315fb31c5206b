"""The optimizer writes in place, in float32 where it matters, and never applies a broken gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from learn_cases import tiny_llama
from torch import nn

from rft.learn.optimizer import PolicyOptimizer, learning_rate, schedule_factor
from rft.recipe.schema import TrainSpec


def _backward(model, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model(torch.randint(0, 61, (2, 9))).logits.float().logsumexp(-1).square().mean().backward()


def _optimizer(model, **settings) -> PolicyOptimizer:
    return PolicyOptimizer(
        model.named_parameters(),
        **{"learning_rate": 1e-2, "total_steps": 10, "max_grad_norm": 1e9, **settings},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_writes_into_the_same_memory(dtype):
    model = tiny_llama(dtype=dtype)
    optimizer = _optimizer(model)
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    _backward(model)
    assert optimizer.step().applied
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert not torch.equal(parameter, before[name][1])


def test_float32_agrees_with_torchs_plain_adamw():
    ours, theirs = tiny_llama(), tiny_llama()
    settings = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    optimizer = _optimizer(ours, **settings)
    plain = torch.optim.AdamW(theirs.parameters(), lr=1e-2, fused=False, **settings)
    for seed in range(3):
        _backward(ours, seed)
        _backward(theirs, seed)
        optimizer.step()
        plain.step()
        plain.zero_grad()
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-5, atol=1e-6)


def test_masters_keep_what_bfloat16_would_lose():
    # 1e-4 is far below 1 / 256, so a bfloat16 weight of 1 alone would never move.
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    lost = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    for parameter, masters in ((weight, True), (lost, False)):
        optimizer = PolicyOptimizer(
            [("weight", parameter)], learning_rate=1e-4, total_steps=1, master_weights=masters
        )
        for _ in range(100):
            parameter.float().sum().backward()
            optimizer.step()
    assert weight.tolist() == pytest.approx([0.99] * 4, abs=2**-8)
    assert lost.tolist() == [1.0] * 4


def test_bfloat16_gradients_add_up_in_float32_and_are_freed():
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = PolicyOptimizer([("weight", weight)], learning_rate=1.0, total_steps=1, max_grad_norm=1e9)
    # 256 + 1 is 256 in bfloat16; eight ones must not vanish beside it.
    (weight * 256.0).sum().backward()
    for _ in range(8):
        weight.sum().backward()
    assert weight.grad is None
    assert optimizer.step().grad_norm == 264.0


def test_clipping_is_by_the_global_norm():
    norms = []
    for clip in (1e9, 1e-3):
        model = tiny_llama()
        # Without momentum's normalisation a step is not proportional to its gradient, so look at the moment.
        optimizer = _optimizer(model, max_grad_norm=clip)
        _backward(model)
        norms.append(optimizer.step().grad_norm)
        moments = [state["exp_avg"] for state in optimizer.state_dict()["adamw"]["state"].values()]
        total = torch.stack([moment.norm() for moment in moments]).norm().item()
        # The first moment after one step is (1 - 0.9) times the clipped gradient.
        assert total == pytest.approx(0.1 * min(clip, norms[-1]), rel=1e-3)
    assert norms[0] == norms[1] > 1e-3, "the norm is told as it was before clipping"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_is_not_applied(value, dtype):
    model = tiny_llama(dtype=dtype)
    optimizer = _optimizer(model)
    _backward(model)
    optimizer.step()
    before = copy.deepcopy([p.detach() for p in model.parameters()])
    state = copy.deepcopy(optimizer.state_dict()["adamw"]["state"])
    _backward(model)
    (model.lm_head.weight[0, 0] * value).backward()
    stats = optimizer.step()
    assert not stats.applied
    assert optimizer.skipped == 1
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    after = optimizer.state_dict()["adamw"]["state"]
    assert all(torch.equal(after[key]["exp_avg"], state[key]["exp_avg"]) for key in state)
    _backward(model)
    assert optimizer.step().applied, "the broken gradient is gone"


def test_tied_and_frozen_parameters():
    model = tiny_llama()
    model.model.norm.weight.requires_grad_(False)
    names = _optimizer(model).names
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names, "tied to the embedding"
    assert "model.norm.weight" not in names
    with pytest.raises(ValueError, match="no trainable parameter"):
        PolicyOptimizer([], learning_rate=1e-3, total_steps=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_going_on_from_a_saved_state_is_exact(dtype, tmp_path):
    straight = tiny_llama(dtype=dtype)
    optimizer = _optimizer(straight, schedule="cosine", warmup_steps=2)
    for seed in range(2):
        _backward(straight, seed)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = tiny_llama(seed=9, dtype=dtype)
    resumed.load_state_dict(straight.state_dict())
    again = _optimizer(resumed, schedule="cosine", warmup_steps=2)
    pointers = [p.data_ptr() for p in resumed.parameters()]
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert [p.data_ptr() for p in resumed.parameters()] == pointers
    for seed in (2, 3):
        for model, its in ((straight, optimizer), (resumed, again)):
            _backward(model, seed)
            its.step()
    assert again.learning_rate == optimizer.learning_rate
    for parameter, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_the_state_of_another_model_is_refused():
    state = _optimizer(tiny_llama()).state_dict()
    with pytest.raises(ValueError, match="another model"):
        _optimizer(tiny_llama(num_hidden_layers=1)).load_state_dict(state)


def test_closing_takes_the_hooks_away():
    model = tiny_llama(dtype=torch.bfloat16)
    _optimizer(model).close()
    _backward(model)
    assert all(p.grad is not None for p in model.parameters())


def test_schedules_by_hand():
    def factors(schedule, warmup_steps):
        return [
            schedule_factor(step, schedule=schedule, warmup_steps=warmup_steps, total_steps=5)
            for step in range(5)
        ]

    assert factors("constant", 0) == [1, 1, 1, 1, 1]
    assert factors("constant", 3) == [0.25, 0.5, 0.75, 1, 1]
    assert factors("linear", 0) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert factors("linear", 1) == pytest.approx([0.5, 1, 0.75, 0.5, 0.25])
    assert factors("cosine", 1) == pytest.approx([0.5, 1, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_a_skipped_step_moves_the_schedule_on():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = PolicyOptimizer([("weight", weight)], learning_rate=1.0, total_steps=4, schedule="linear")
    (weight * float("nan")).sum().backward()
    assert optimizer.step().learning_rate == 1.0
    assert optimizer.learning_rate == 0.75


def test_an_adapter_learns_ten_times_as_fast_unless_the_recipe_says_how_fast():
    plain, adapter = nn.Linear(1, 1), nn.Linear(1, 1)
    adapter.disable_adapter = None
    assert [learning_rate(model, TrainSpec()) for model in (plain, adapter)] == [1e-5, 1e-4]
    assert [learning_rate(model, TrainSpec(learning_rate=0.5)) for model in (plain, adapter)] == [0.5, 0.5]
