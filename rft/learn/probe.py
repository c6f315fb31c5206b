"""Finds out, on a few tokens, how a model can be run: prompts shared or not, head in chunks or not.

The truth is the model's own forward over one plain sequence at a time, which is right for every causal
language model. A faster way is taken only when it gives the same log-probabilities. What a few tokens
cannot show is read from the configuration: a sliding window is only felt by sequences longer than it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from rft.learn.attention import TREES
from rft.learn.batch import Batch, to_batch
from rft.learn.logprobs import policy_logprobs, unwrapped
from rft.learn.packing import Packing, pack
from rft.types import Group, Rollout, Score, Task, Turn

_PROMPTS = (5, 3)
_COMPLETIONS = (4, 6, 1)
# Share of the spread of the log-probabilities. Wrong masks err by about the whole spread.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_TOLERANCE_HALF = 0.05


@dataclass(frozen=True)
class Abilities:
    """How a model is run, and why not faster."""

    packing: Packing
    chunked_head: bool
    reasons: tuple[str, ...] = ()
    """One sentence for each faster way that was refused."""


@torch.no_grad()
def probe(model: nn.Module, *, share_prompts: bool, longest: int | None = None) -> Abilities:
    """The fastest way of running `model` that agrees with its plain forward.

    Args:
        model: a causal language model of transformers, or peft's wrapper; put into eval mode meanwhile.
        share_prompts: whether to try computing a group's prompt once.
        longest: the most tokens a sequence can have; unset, a model with a sliding window never shares.
    """
    base = unwrapped(model)
    if base.config._attn_implementation == TREES:
        base.set_attn_implementation("sdpa")  # an earlier probe may have judged shorter sequences
    was_training = model.training
    model.eval()
    try:
        batch = _sample(base.config.get_text_config().vocab_size)
        truth_N, spread = _plain_logprobs(model, batch)
        tolerance = _TOLERANCE.get(base.dtype, _TOLERANCE_HALF) * spread
        reasons: list[str] = []

        chunked_head = _plain_head(base)
        if chunked_head:
            chunked_head = _difference(model, batch, truth_N, "single", True) <= tolerance
        if not chunked_head:
            reasons.append("logits are not computed in chunks: they are more than one matrix on the trunk")
        given = base.config._attn_implementation
        for packing, attention in _ways(base.config, longest, share_prompts, reasons):
            base.set_attn_implementation(attention)
            difference = _difference(model, batch, truth_N, packing, chunked_head)
            if difference <= tolerance:
                return Abilities(packing, chunked_head, tuple(reasons))
            reasons.append(f"{packing} rows under {attention} attention differ by {difference:.2g} nats")
        base.set_attn_implementation(given)
        return Abilities("single", chunked_head, tuple(reasons))
    finally:
        model.train(was_training)


def _ways(
    config: PreTrainedConfig, longest: int | None, share_prompts: bool, reasons: list[str]
) -> list[tuple[Packing, str]]:
    """What to try, fastest first."""
    given = config._attn_implementation
    refusal = _refusal(config, longest)
    if refusal is not None:
        reasons.append(f"prompts are not shared: {refusal}")
        return [("packed", given)]
    packings: tuple[Packing, ...] = ("shared", "packed") if share_prompts else ("packed",)
    return [
        (packing, one) for packing in packings for one in ((TREES, given) if given == "sdpa" else (given,))
    ]


def _plain_head(base: PreTrainedModel) -> bool:
    # A bias or an adapter that is still zero would pass the comparison and then never train.
    head = base.get_output_embeddings()
    return type(head) is nn.Linear and head.bias is None


def _refusal(config: PreTrainedConfig, longest: int | None) -> str | None:
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"{config._attn_implementation} attention takes no 4-D mask; load the model with sdpa"
    text = config.get_text_config()
    for name in ("sliding_window", "attention_chunk_size"):
        window = getattr(text, name, None)
        if window is not None and (longest is None or longest > window):
            return f"{name} is {window} and sequences may be longer ({longest or 'unknown'} tokens)"
    return None


def _sample(vocabulary: int) -> Batch:
    """Two groups of three; the ids are spread over the vocabulary and differ everywhere."""
    groups = []
    number = 0

    def ids(count: int) -> tuple[int, ...]:
        nonlocal number
        number += count
        return tuple((7919 * one + 11) % vocabulary for one in range(number - count, number))

    for group, prompt_length in enumerate(_PROMPTS):
        task = Task(f"probe-{group}", "")
        prompt = ids(prompt_length)
        rollouts = [
            Rollout(
                f"{task.id}/{index}", task.id, task, (), (Turn(prompt, ids(length), (0.0,) * length, "stop"),)
            )
            for index, length in enumerate(_COMPLETIONS)
        ]
        scores = [Score(float(index)) for index in range(len(rollouts))]
        groups.append(Group(task.id, task, rollouts, scores))
    return to_batch(groups, mask_truncated=False, min_valid=0.0)


def _plain_logprobs(model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
    device = unwrapped(model).device
    truth: list[Tensor] = []
    spreads: list[Tensor] = []
    for sequence in batch.sequences:
        token_ids_BT = torch.tensor([sequence.token_ids], device=device)
        logprobs_TV = torch.log_softmax(
            model(input_ids=token_ids_BT, use_cache=False).logits[0].float(), dim=-1
        )
        positions = torch.tensor(sequence.policy_positions, device=device)
        truth.append(logprobs_TV[positions - 1, token_ids_BT[0, positions]])
        spreads.append(logprobs_TV.std())
    return torch.cat(truth), torch.stack(spreads).mean().item()


def _difference(
    model: nn.Module, batch: Batch, truth_N: Tensor, packing: Packing, chunked_head: bool
) -> float:
    """Mean absolute difference, nats; infinite when the model cannot be run that way at all."""
    found_N = torch.full_like(truth_N, float("nan"))
    for row in pack(batch, range(len(batch.sequences)), micro_batch_tokens=1024, packing=packing):
        micro_batch = row.to(truth_N.device)
        try:
            logprobs_M, _ = policy_logprobs(
                model, micro_batch, temperature=1.0, chunk=4, chunked_head=chunked_head
            )
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
            # A model that takes no position ids, no 4-D mask, or has no plain head says so in its own way.
            return float("inf")
        found_N[micro_batch.index_M] = logprobs_M
    return (found_N - truth_N).abs().mean().item()
