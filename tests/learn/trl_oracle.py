"""TRL's own GRPO loss on a batch of ours: the second implementation that losses are held against."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from rft.learn.batch import Batch
from rft.recipe.schema import AlgorithmSpec, MismatchSpec

MAX_COMPLETION = 20


def trl_loss(
    model, batch: Batch, algorithm: AlgorithmSpec, temperature: float
) -> tuple[torch.Tensor, GRPOTrainer]:
    """`GRPOTrainer._compute_loss` on an object that has what it reads, without data or a training loop.

    `batch` has advantages, old, sampler and (for a KL term) reference log-probabilities.
    """
    args = {
        "use_bias_correction_kl": algorithm.kl.corrected,
        "delta": algorithm.delta,
        "steps_per_generation": 1,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
        "entropy_target": algorithm.entropy.target,
        "entropy_coef_delta": algorithm.entropy.step,
        "entropy_coef_min": 0.0,
        "entropy_coef_max": algorithm.entropy.coef_max,
    }
    args |= {f"{algorithm.loss_type}_{name}": value for name, value in algorithm.loss_args.items()}
    attributes = {
        "model": model,
        "args": SimpleNamespace(**args),
        "accelerator": SimpleNamespace(
            autocast=nullcontext,
            gather=lambda value: value,
            reduce=lambda value, reduction: value,
            pad_across_processes=lambda value, **_: value,
            num_processes=1,
            is_main_process=False,
            sync_gradients=True,
            device=torch.device("cpu"),
        ),
        "loss_type": algorithm.loss_type,
        "beta": algorithm.beta,
        "epsilon_low": algorithm.epsilon,
        "epsilon_high": algorithm.epsilon if algorithm.epsilon_high is None else algorithm.epsilon_high,
        "importance_sampling_level": algorithm.importance_level,
        "use_vllm": algorithm.mismatch.mode != "off",
        "vllm_importance_sampling_correction": True,
        "max_completion_length": MAX_COMPLETION,
        "current_gradient_accumulation_steps": 1,
        "aux_loss_enabled": False,
        "top_entropy_quantile": algorithm.entropy.top_quantile,
        "off_policy_mask_threshold": algorithm.mismatch.off_policy_threshold,
        "_entropy_bonus_enabled": algorithm.entropy.coef != 0.0 or algorithm.entropy.target is not None,
        "use_adaptive_entropy": algorithm.entropy.target is not None,
        "entropy_coef": algorithm.entropy.coef,
        "_last_world_entropy": float("inf"),
        "_entropy_window_stats": None,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
    }
    trainer = object.__new__(GRPOTrainer)
    for name, value in attributes.items():
        setattr(trainer, name, value)
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    model.train()
    return trainer._compute_loss(model, _inputs(batch, algorithm.mismatch)), trainer


def _inputs(batch: Batch, mismatch: MismatchSpec) -> dict[str, torch.Tensor]:
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
    tool_mask = _padded(batch, torch.ones(batch.num_tokens))
    first_tokens = torch.tensor([one.start for one in batch.sequences])
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "tool_mask": tool_mask,
        "advantages": batch.advantages_N[first_tokens],
        "old_per_token_logps": _padded(batch, batch.old_logprobs_N),
        "sampling_per_token_logps": _padded(batch, batch.sampler_logprobs_N),
        "num_items_in_batch": (completion_mask * tool_mask).sum(),
    }
    if batch.ref_logprobs_N is not None:
        inputs["ref_per_token_logps"] = _padded(batch, batch.ref_logprobs_N)
    if mismatch.mode != "off":
        inputs["importance_sampling_ratio"] = _correction(inputs, mismatch)
    return inputs


def _correction(inputs: dict[str, torch.Tensor], mismatch: MismatchSpec) -> torch.Tensor:
    """The lines of TRL's _generate_and_score_completions, which cannot be called apart."""
    difference = inputs["old_per_token_logps"] - inputs["sampling_per_token_logps"]
    difference = torch.nan_to_num(difference * inputs["completion_mask"] * inputs["tool_mask"], nan=0.0)
    if mismatch.level == "sequence":
        difference = difference.sum(dim=-1, keepdim=True)
    ratio = difference.exp()
    if mismatch.mode == "truncate":
        return torch.clamp(ratio, max=mismatch.clip_max)
    low = mismatch.clip_min if mismatch.mode == "icepop" else -math.inf
    return ratio.masked_fill((ratio < low) | (ratio > mismatch.clip_max), value=0.0)


def _padded(batch: Batch, values_N: torch.Tensor) -> torch.Tensor:
    """Values of policy tokens on TRL's axes [B, completion], context tokens of later turns included."""
    width = max(one.length - one.prompt_length for one in batch.sequences)
    out = torch.zeros(len(batch.sequences), width, dtype=values_N.dtype)
    for row, one in enumerate(batch.sequences):
        for offset, position in enumerate(one.policy_positions):
            out[row, position - one.prompt_length] = values_N[one.start + offset]
    return out
