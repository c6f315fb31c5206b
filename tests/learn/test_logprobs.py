"""Log-probabilities against the model's own forward, one plain sequence at a time."""

from __future__ import annotations

import pytest
import torch
from learn_cases import VOCABULARY, random_groups, tiny_llama
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from rft.learn.attention import TREES
from rft.learn.batch import Batch, to_batch
from rft.learn.logprobs import _logprobs_of, policy_logprobs
from rft.learn.packing import pack


def _batch(seed: int = 0, **settings) -> Batch:
    return to_batch(random_groups(seed, multi_turn=True, **settings), mask_truncated=False, min_valid=0.0)


def _plain(model, batch: Batch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, entropies = [], []
    for one in batch.sequences:
        logits_TV = model(torch.tensor([one.token_ids])).logits[0].float() / temperature
        distribution = torch.distributions.Categorical(logits=logits_TV)
        before = torch.tensor(one.policy_positions) - 1
        logprobs.append(distribution.log_prob(torch.tensor([*one.token_ids[1:], 0]))[before])
        entropies.append(distribution.entropy()[before])
    return torch.cat(logprobs), torch.cat(entropies)


def _packed(
    model, batch: Batch, packing, temperature: float, **settings
) -> tuple[torch.Tensor, torch.Tensor]:
    index, logprobs, entropies = [], [], []
    for row in pack(batch, range(len(batch.sequences)), micro_batch_tokens=40, packing=packing):
        logprobs_M, entropy_M = policy_logprobs(
            model, row, temperature=temperature, **{"chunk": 5, **settings}
        )
        index.append(row.index_M)
        logprobs.append(logprobs_M)
        entropies.append(entropy_M)
    order = torch.cat(index).argsort()
    return torch.cat(logprobs)[order], torch.cat(entropies)[order]


def _gradients(model, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    # Unequal weights, so that swapped tokens would show.
    (value * torch.linspace(0.5, 1.5, len(value))).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("packing", "attention"),
    [
        ("shared", "eager"),
        ("shared", "sdpa"),
        ("shared", TREES),
        ("packed", "eager"),
        ("packed", "sdpa"),
        ("packed", TREES),
        ("single", "sdpa"),
    ],
)
def test_every_packing_and_attention_gives_the_plain_forward(packing, attention):
    batch = _batch()
    model = tiny_llama(attn_implementation="eager")
    plain_N, plain_entropy_N = _plain(model, batch, 0.7)
    expected = _gradients(model, plain_N)

    model.set_attn_implementation(attention)
    ours_N, entropy_N = _packed(model, batch, packing, 0.7)
    torch.testing.assert_close(ours_N, plain_N, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy_N, plain_entropy_N, rtol=0, atol=1e-5)
    for name, gradient in _gradients(model, ours_N).items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=0, atol=1e-5 * expected[name].abs().max().item()
        )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunked_head", [True, False])
def test_the_gradient_of_the_entropy_is_the_plain_forwards(chunked_head, tied, temperature):
    batch, model = _batch(), tiny_llama(tie_word_embeddings=tied)
    plain_N, plain_entropy_N = _plain(model, batch, temperature)
    expected = _gradients(model, 0.3 * plain_N + plain_entropy_N)
    ours_N, entropy_N = _packed(
        model, batch, "shared", temperature, chunked_head=chunked_head, entropy_gradient=True
    )
    for name, gradient in _gradients(model, 0.3 * ours_N + entropy_N).items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=0, atol=1e-5 * expected[name].abs().max().item()
        )


@pytest.mark.parametrize("chunked_head", [True, False])
def test_the_entropy_has_no_gradient_unless_asked(chunked_head):
    ours_N, entropy_N = _packed(tiny_llama(), _batch(), "shared", 1.0, chunked_head=chunked_head)
    assert ours_N.requires_grad
    assert not entropy_N.requires_grad


def test_an_impossible_token_leaves_entropy_and_gradient_finite():
    logits_UV = torch.tensor([[0.0, 1.0, float("-inf")]], requires_grad=True)
    target_M = torch.tensor([1])
    _, entropy_M = _logprobs_of(logits_UV, torch.tensor([0]), target_M, 1.0, entropy_gradient=True)
    entropy_M.sum().backward()
    two = torch.tensor([0.0, 1.0], requires_grad=True)
    expected = torch.distributions.Categorical(logits=two).entropy()
    expected.backward()
    assert entropy_M.item() == pytest.approx(expected.item())
    assert logits_UV.grad[0].tolist() == pytest.approx([*two.grad.tolist(), 0.0])


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_chunk_changes_nothing(chunk):
    batch, model = _batch(), tiny_llama()
    whole_N, _ = _packed(model, batch, "shared", 1.0, chunk=64)
    expected = _gradients(model, whole_N)
    ours_N, _ = _packed(model, batch, "shared", 1.0, chunk=chunk)
    torch.testing.assert_close(ours_N, whole_N, rtol=0, atol=1e-6)
    for name, gradient in _gradients(model, ours_N).items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=0, atol=1e-5 * expected[name].abs().max().item()
        )


def test_the_models_own_head_gives_the_same():
    batch, model = _batch(), tiny_llama()
    chunked_N, chunked_entropy_N = _packed(model, batch, "shared", 0.7)
    whole_N, whole_entropy_N = _packed(model, batch, "shared", 0.7, chunked_head=False)
    torch.testing.assert_close(whole_N, chunked_N, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole_entropy_N, chunked_entropy_N, rtol=0, atol=1e-5)


class _LargestLogits(TorchDispatchMode):
    """Remembers the most rows any tensor with the vocabulary as its last axis had."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.ndim >= 2 and tensor.shape[-1] == VOCABULARY:
                self.rows = max(self.rows, tensor.numel() // VOCABULARY)
        return out


def test_no_more_than_a_chunk_of_logits_ever_exists():
    model, batch = tiny_llama(tie_word_embeddings=False), _batch(groups=4)
    (row,) = pack(batch, range(len(batch.sequences)), micro_batch_tokens=10_000, packing="shared")
    assert len(row.index_M) > 50
    with _LargestLogits() as chunked:
        policy_logprobs(model, row, temperature=1.0, chunk=5)[0].sum().backward()
    with _LargestLogits() as whole:
        policy_logprobs(model, row, temperature=1.0, chunk=5, chunked_head=False)[0].sum().backward()
    # The transposed weight [32, vocabulary] is a view that is no logits.
    assert chunked.rows <= max(5, model.config.hidden_size)
    assert whole.rows > 50, "the measure must see what the other way allocates"


def test_gradient_checkpointing_changes_nothing():
    batch = _batch()
    expected = tiny_llama()
    plain = _gradients(expected, _packed(expected, batch, "shared", 1.0)[0])
    model = tiny_llama(attn_implementation="sdpa")
    model.set_attn_implementation(TREES)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for name, gradient in _gradients(model, _packed(model, batch, "shared", 1.0)[0]).items():
        torch.testing.assert_close(gradient, plain[name], rtol=0, atol=1e-5 * plain[name].abs().max().item())


def test_an_adapter_is_seen_through_its_wrapper():
    batch = _batch()
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    with torch.no_grad():
        ours_N, _ = _packed(model, batch, "shared", 1.0)
        torch.testing.assert_close(ours_N, _plain(model, batch, 1.0)[0], rtol=0, atol=1e-4)
        with model.disable_adapter():
            without_N, _ = _packed(model, batch, "shared", 1.0)
    assert (without_N - ours_N).abs().max() > 0.1


def test_bfloat16_weights_give_float32_logprobs():
    batch = _batch()
    model = tiny_llama(dtype=torch.bfloat16)
    ours_N, _ = _packed(model, batch, "shared", 1.0)
    assert ours_N.dtype == torch.float32
    exact_N, _ = _plain(model.float(), batch, 1.0)
    # Eight bits of mantissa on logits of a few units; a wrong mask is off by whole nats.
    assert (ours_N - exact_N).abs().mean() < 0.05


@pytest.mark.parametrize("attention", ["sdpa", TREES])
def test_autocast_computes_float32_weights_in_bfloat16_with_float32_gradients(attention):
    batch, model = _batch(), tiny_llama()
    model.set_attn_implementation(attention)
    exact_N, _ = _packed(model, batch, "shared", 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        ours_N, _ = _packed(model, batch, "shared", 1.0)
    assert ours_N.dtype == torch.float32
    assert 0 < (ours_N - exact_N).abs().mean() < 0.05
    assert all(gradient.dtype == torch.float32 for gradient in _gradients(model, ours_N).values())
