"""The loss against arithmetic by hand, a slow second version, and TRL's GRPOTrainer."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_cases import random_groups, tiny_llama
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from rft.learn.batch import Batch, to_batch
from rft.learn.credit import assign_credit
from rft.learn.logprobs import policy_logprobs
from rft.learn.loss import (
    LossConfig,
    clipped_policy_loss,
    importance_ratios,
    kl_k3,
    mismatch_weights,
    policy_loss,
    token_weights,
)
from rft.learn.packing import pack
from rft.recipe.schema import AlgorithmSpec

LOSS_TYPES = ["grpo", "dr_grpo", "dapo", "bnpo"]
MAX_COMPLETION = 20


def test_three_tokens_by_hand():
    # One sequence of two tokens (advantage 1), one of one token (advantage -2); epsilon 0.2 both ways.
    #   token 0: ratio 1.5, above 1.2 with a gain: clipped to 1.2          -> -1.2
    #   token 1: ratio 0.5, below 0.8 with a gain: min takes the smaller   -> -0.5
    #   token 2: ratio 0.5, below 0.8 with a loss: clipped to 0.8          -> +1.6
    policy_N = torch.tensor([0.3, 0.1, 0.2]).log().requires_grad_()
    old_N = torch.tensor([0.2, 0.2, 0.4]).log()
    advantages_N = torch.tensor([1.0, 1.0, -2.0])
    loss_N = clipped_policy_loss(policy_N, old_N, advantages_N, epsilon_low=0.2, epsilon_high=0.2)
    assert loss_N.tolist() == pytest.approx([-1.2, -0.5, 1.6])
    # Only the unclipped token moves: d(-r)/d log p = -r = -0.5.
    loss_N.sum().backward()
    assert policy_N.grad.tolist() == pytest.approx([0.0, -0.5, 0.0])


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("grpo", [0.25, 0.25, 0.5]), ("dr_grpo", [1 / 40] * 3), ("dapo", [1 / 5] * 3), ("bnpo", [1 / 3] * 3)],
)
def test_normalisers_by_hand(loss_type, expected):
    # Two sequences of two and one tokens, of a batch that has five tokens per optimizer step.
    weights_N = token_weights(
        loss_type, torch.tensor([0, 0, 1]), batch_sequences=2, batch_tokens=5, max_completion_tokens=20
    )
    assert weights_N.tolist() == pytest.approx(expected)


def test_k3_by_hand():
    # d = log(ref / policy) = log 2: 2 - log 2 - 1.
    value = kl_k3(torch.tensor([0.25]).log(), torch.tensor([0.5]).log())
    assert value.item() == pytest.approx(1 - math.log(2))


@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=8))
def test_k3_is_never_negative(pairs):
    policy_N, ref_N = torch.tensor(pairs, dtype=torch.float64).T
    assert (kl_k3(policy_N, ref_N) >= -1e-9).all()


def test_mismatch_by_hand():
    # Sequence 0: ratios 2 and 3, product 6. Sequence 1: ratio 0.5.
    old_N = torch.tensor([0.2, 0.3, 0.1]).log()
    sampler_N = torch.tensor([0.1, 0.1, 0.2]).log()
    sequence_N = torch.tensor([0, 0, 1])
    token_N = importance_ratios(old_N, sampler_N, sequence_N, "token")
    product_N = importance_ratios(old_N, sampler_N, sequence_N, "sequence")
    assert token_N.tolist() == pytest.approx([2, 3, 0.5])
    assert product_N.tolist() == pytest.approx([6, 6, 0.5])
    assert mismatch_weights(token_N, mode="truncate", clip_max=2.5).tolist() == pytest.approx([2, 2.5, 0.5])
    assert mismatch_weights(token_N, mode="mask", clip_max=2.5).tolist() == pytest.approx([2, 0, 0.5])
    assert mismatch_weights(product_N, mode="mask", clip_max=2.5).tolist() == pytest.approx([0, 0, 0.5])
    assert mismatch_weights(product_N, mode="off", clip_max=2.5).tolist() == [1, 1, 1]


def test_a_token_without_a_sampler_logprob_is_not_corrected():
    ratio_N = importance_ratios(torch.tensor([-1.0]), torch.tensor([math.nan]), torch.tensor([0]), "token")
    assert ratio_N.tolist() == [1.0]


def test_kl_without_a_reference_is_an_error():
    one = torch.tensor([-1.0])
    with pytest.raises(ValueError, match="reference"):
        policy_loss(
            one,
            old_logprobs_N=one,
            sampler_logprobs_N=one,
            advantages_N=one,
            weights_N=one,
            sequence_N=torch.tensor([0]),
            ref_logprobs_N=None,
            config=LossConfig(beta=0.1),
        )


def _slow_loss(policy, old, sampler, ref, advantages, sequences, config: LossConfig, loss_type: str) -> float:
    """The same definitions, one token at a time, in Python floats."""
    total = 0.0
    count = len(set(sequences))
    for n, sequence in enumerate(sequences):
        mates = [m for m, other in enumerate(sequences) if other == sequence]
        group = mates if config.mismatch_level == "sequence" else [n]
        importance = math.prod(math.exp(old[m] - sampler[m]) for m in group)
        if config.mismatch_mode == "off":
            importance = 1.0
        elif importance > config.mismatch_clip_max:
            importance = config.mismatch_clip_max if config.mismatch_mode == "truncate" else 0.0
        ratio = math.exp(policy[n] - old[n])
        clipped = min(max(ratio, 1 - config.epsilon_low), 1 + config.epsilon_high)
        loss = -importance * min(ratio * advantages[n], clipped * advantages[n])
        loss += config.beta * (math.exp(ref[n] - policy[n]) - (ref[n] - policy[n]) - 1)
        divisor = {
            "grpo": count * len(mates),
            "dr_grpo": count * MAX_COMPLETION,
            "dapo": len(sequences),
            "bnpo": len(sequences),
        }
        total += loss / divisor[loss_type]
    return total


@given(
    rows=st.lists(st.tuples(*[st.floats(-3, -0.1)] * 4, st.floats(-2, 2)), min_size=1, max_size=9),
    cuts=st.integers(0, 255),
    loss_type=st.sampled_from(LOSS_TYPES),
    mode=st.sampled_from(["off", "truncate", "mask"]),
    level=st.sampled_from(["token", "sequence"]),
    beta=st.sampled_from([0.0, 0.3]),
)
def test_the_slow_version_agrees(rows, cuts, loss_type, mode, level, beta):
    policy, old, sampler, ref, advantages = map(list, zip(*rows, strict=True))
    sequences = [bin(cuts & ((1 << n) - 1)).count("1") for n in range(len(rows))]
    # 2.9 is no ratio that these floats reach exactly, so both versions fall on the same side of it.
    config = LossConfig(0.2, 0.28, beta, mode, level, 2.9)
    sequence_N = torch.tensor(sequences)
    tensors = [torch.tensor(one, dtype=torch.float64) for one in (policy, old, sampler, ref, advantages)]
    ours = policy_loss(
        tensors[0],
        old_logprobs_N=tensors[1],
        sampler_logprobs_N=tensors[2],
        ref_logprobs_N=tensors[3],
        advantages_N=tensors[4],
        weights_N=token_weights(
            loss_type,
            sequence_N,
            batch_sequences=len(set(sequences)),
            batch_tokens=len(rows),
            max_completion_tokens=MAX_COMPLETION,
        ).double(),
        sequence_N=sequence_N,
        config=config,
    )
    slow = _slow_loss(policy, old, sampler, ref, advantages, sequences, config, loss_type)
    # Weights are float32 by contract.
    assert ours.item() == pytest.approx(slow, rel=1e-6, abs=1e-6)


def _padded(batch: Batch, values_N: torch.Tensor, fill: float) -> torch.Tensor:
    """Values of policy tokens on TRL's axes [B, completion], context tokens of later turns included."""
    width = max(one.length - one.prompt_length for one in batch.sequences)
    out = torch.full((len(batch.sequences), width), fill, dtype=values_N.dtype)
    for row, one in enumerate(batch.sequences):
        for offset, position in enumerate(one.policy_positions):
            out[row, position - one.prompt_length] = values_N[one.start + offset]
    return out


def _trl_inputs(batch: Batch, old_N, ref_N, config: LossConfig) -> dict[str, torch.Tensor]:
    prompts = max(one.prompt_length for one in batch.sequences)
    width = max(one.length - one.prompt_length for one in batch.sequences)
    rows = len(batch.sequences)
    prompt_ids, prompt_mask = torch.zeros(rows, prompts).long(), torch.zeros(rows, prompts).long()
    completion_ids, completion_mask = torch.zeros(rows, width).long(), torch.zeros(rows, width).long()
    for row, one in enumerate(batch.sequences):
        prompt, completion = one.token_ids[: one.prompt_length], one.token_ids[one.prompt_length :]
        prompt_ids[row, prompts - len(prompt) :] = torch.tensor(prompt)
        prompt_mask[row, prompts - len(prompt) :] = 1
        completion_ids[row, : len(completion)] = torch.tensor(completion)
        completion_mask[row, : len(completion)] = 1
    tool_mask = _padded(batch, torch.ones(batch.num_tokens), 0.0)
    mask = completion_mask * tool_mask
    # The lines of TRL's _generate_and_score_completions, which cannot be called apart.
    difference = (_padded(batch, old_N, 0.0) - _padded(batch, batch.sampler_logprobs_N, 0.0)) * mask
    if config.mismatch_level == "sequence":
        difference = difference.sum(dim=-1, keepdim=True)
    ratio = difference.exp()
    if config.mismatch_mode == "truncate":
        ratio = torch.clamp(ratio, max=config.mismatch_clip_max)
    else:
        ratio = ratio.masked_fill(ratio > config.mismatch_clip_max, value=0.0)
    first_tokens = torch.tensor([one.start for one in batch.sequences])
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "tool_mask": tool_mask,
        "advantages": batch.advantages_N[first_tokens],
        "old_per_token_logps": _padded(batch, old_N, 0.0),
        "ref_per_token_logps": _padded(batch, ref_N, 0.0),
        "importance_sampling_ratio": ratio,
        "num_items_in_batch": mask.sum(),
    }


def _trl_loss(model, batch: Batch, old_N, ref_N, config: LossConfig, loss_type: str, temperature: float):
    """TRL's own _compute_loss on an object that has what it reads, without data or a training loop."""
    trainer = object.__new__(GRPOTrainer)
    attributes = {
        "model": model,
        "args": SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        "accelerator": SimpleNamespace(
            autocast=nullcontext,
            gather=lambda value: value,
            reduce=lambda value, reduction: value,
            num_processes=1,
            is_main_process=False,
            device=torch.device("cpu"),
        ),
        "loss_type": loss_type,
        "beta": config.beta,
        "epsilon_low": config.epsilon_low,
        "epsilon_high": config.epsilon_high,
        "importance_sampling_level": "token",
        "use_vllm": config.mismatch_mode != "off",
        "vllm_importance_sampling_correction": True,
        "max_completion_length": MAX_COMPLETION,
        "current_gradient_accumulation_steps": 1,
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
    }
    for name, value in attributes.items():
        setattr(trainer, name, value)
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    model.train()
    return trainer._compute_loss(model, _trl_inputs(batch, old_N, ref_N, config)), trainer._metrics["train"]


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize(
    ("mode", "level", "beta"),
    [
        ("off", "token", 0.0),
        ("truncate", "token", 0.0),
        ("mask", "token", 0.1),
        ("truncate", "sequence", 0.1),
        ("mask", "sequence", 0.0),
    ],
)
def test_trl_agrees_on_loss_and_gradient(loss_type, mode, level, beta):
    temperature = 0.7
    batch = to_batch(random_groups(5, multi_turn=True), mask_truncated=False, min_valid=1.0)
    batch = assign_credit(batch, AlgorithmSpec())
    rows = pack(batch, range(len(batch.sequences)), micro_batch_tokens=40, packing="shared")
    assert len(rows) > 1
    config = LossConfig(0.2, 0.28, beta, mode, level, 1.5)
    model = tiny_llama()
    with torch.no_grad():
        before_N = torch.empty(batch.num_tokens)
        for row in rows:
            before_N[row.index_M] = policy_logprobs(model, row, temperature=temperature, chunk=16)[0]
    chance = torch.Generator().manual_seed(0)
    # Old and reference a little away, so that some tokens are clipped on either side; the sampler near old.
    old_N = before_N + 0.3 * torch.randn(before_N.shape, generator=chance)
    ref_N = before_N + 0.3 * torch.randn(before_N.shape, generator=chance)
    noise_N = 0.2 * torch.randn(before_N.shape, generator=chance)
    batch = Batch(**{**vars(batch), "sampler_logprobs_N": old_N + noise_N})

    weights_N = token_weights(
        loss_type,
        batch.sequence_N,
        batch_sequences=len(batch.sequences),
        batch_tokens=batch.num_tokens,
        max_completion_tokens=MAX_COMPLETION,
    )
    ours = 0.0
    for row in rows:
        policy_M, _ = policy_logprobs(model, row, temperature=temperature, chunk=16)
        loss = policy_loss(
            policy_M,
            old_logprobs_N=old_N[row.index_M],
            sampler_logprobs_N=batch.sampler_logprobs_N[row.index_M],
            ref_logprobs_N=ref_N[row.index_M],
            advantages_N=batch.advantages_N[row.index_M],
            weights_N=weights_N[row.index_M],
            sequence_N=batch.sequence_N[row.index_M],
            config=config,
        )
        loss.backward()
        ours += loss.item()

    theirs_model = tiny_llama()
    theirs, metrics = _trl_loss(theirs_model, batch, old_N, ref_N, config, loss_type, temperature)
    theirs.backward()
    assert 0 < metrics["clip_ratio/region_mean"][0] < 1, "the case must have clipped tokens"
    assert ours == pytest.approx(theirs.item(), rel=1e-5, abs=1e-6)
    for parameter, other in zip(model.parameters(), theirs_model.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.grad, other.grad, rtol=1e-5, atol=1e-5 * other.grad.abs().max().item()
        )
