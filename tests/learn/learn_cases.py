"""Small models and groups that the tests of rft/learn share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rft.learn.batch import Batch, to_batch
from rft.learn.credit import assign_credit
from rft.learn.optimizer import StepStats
from rft.learn.packing import Packing
from rft.learn.probe import Abilities
from rft.learn.update import Updater, UpdateStats
from rft.recipe.schema import AlgorithmSpec, TrainSpec
from rft.types import Group, Rollout, Score, Task, Turn

VOCABULARY = 61


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float32, **changes) -> LlamaForCausalLM:
    """Two layers, tied head; weights large enough that attention matters to the logits."""
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "attn_implementation": "sdpa",
            **changes,
        }
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.25)
    return model.to(dtype)


def rollout(
    name: str, *turns: tuple[Sequence[int], Sequence[int]], stop: str = "eos", seed: int = 0
) -> Rollout:
    """A rollout from (context, sampled) pairs; sampler log-probabilities are made up."""
    chance = random.Random(f"{name}/{seed}")
    made = tuple(
        Turn(tuple(context), tuple(sampled), tuple(-4.0 + chance.uniform(-0.5, 0.5) for _ in sampled), "stop")
        for context, sampled in turns
    )
    group = name.split("/")[0]
    return Rollout(id=name, group_id=group, task=Task(group, ""), messages=(), turns=made, stop=stop)


def group(name: str, rollouts: Sequence[Rollout], rewards: Sequence[float | None]) -> Group:
    """A group; a reward of None is an evaluation that failed."""
    scores = [Score.failed("server", "HTTP 503") if one is None else Score(one) for one in rewards]
    return Group(name, Task(name, ""), rollouts, scores)


def random_groups(
    seed: int,
    *,
    groups: int = 3,
    size: int = 4,
    prompt: tuple[int, int] = (1, 9),
    completion: tuple[int, int] = (1, 8),
    multi_turn: bool = False,
) -> list[Group]:
    """Groups of random tokens and distinct rewards; with `multi_turn` some rollouts have a second turn."""
    chance = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [chance.randrange(VOCABULARY) for _ in range(chance.randint(low, high))]

    made = []
    for number in range(groups):
        shared = ids(*prompt)
        members = []
        for index in range(size):
            turns = [(shared, ids(*completion))]
            if multi_turn and chance.random() < 0.5:
                turns.append((ids(1, 4), ids(*completion)))
            members.append(rollout(f"g{number}/{index}", *turns, seed=seed))
        made.append(group(f"g{number}", members, [chance.random() for _ in members]))
    return made


def batch_of(groups: Sequence[Group], **changes) -> Batch:
    """Every scored member, trained on, whatever its group."""
    batch = to_batch(groups, mask_truncated=False, min_valid=0.0, min_members=1, keep_constant=True)
    return replace(batch, **changes)


def measured(batch: Batch, seed: int = 0) -> Batch:
    """With made-up log-probabilities and values."""
    chance = torch.Generator().manual_seed(seed)
    old_N, ref_N, values_N = (torch.randn(batch.num_tokens, generator=chance) for _ in range(3))
    return replace(batch, old_logprobs_N=old_N - 3.0, ref_logprobs_N=ref_N - 3.0, values_N=values_N)


def credit(batch: Batch, **algorithm) -> torch.Tensor:
    """The advantages of a batch's tokens under an algorithm."""
    return assign_credit(batch, AlgorithmSpec(**algorithm)).advantages_N


def turned(name: str, score: float, values: Sequence[float] | None, *lengths: int) -> tuple[Rollout, Score]:
    """A rollout with a turn of so many tokens each, and its score."""
    turns = [([1, 2], [3] * lengths[0]), *(([4], [5] * length) for length in lengths[1:])]
    return rollout(name, *turns), Score(score, turn_values=values)


def grouped(*members) -> Group:
    """One group of what `turned` makes."""
    rollouts, scores = zip(*members, strict=True)
    return Group("g", rollouts[0].task, rollouts, scores)


class GradientKeeper:
    """Stands where the optimizer does: keeps each step's gradient by parameter name and changes nothing."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.gradients: list[dict[str, torch.Tensor]] = []

    def step(self, loss: float = 0.0) -> StepStats:
        """Takes the gradients away."""
        named = {n: p for n, p in self._model.named_parameters() if p.grad is not None}
        self.gradients.append({name: parameter.grad.clone() for name, parameter in named.items()})
        self._model.zero_grad()
        return StepStats(applied=True, grad_norm=0.0, learning_rate=0.0)


def gradient_of(
    model: torch.nn.Module,
    groups: Sequence[Group],
    algorithm: AlgorithmSpec,
    *,
    packing: Packing = "shared",
    micro_batch_tokens: int = 64,
    chunk: int = 7,
    temperature: float = 1.0,
    mask_truncated: bool = False,
    reference: torch.nn.Module | None = None,
) -> tuple[UpdateStats, dict[str, torch.Tensor]]:
    """Stats and gradient of one update, through the whole of rft/learn."""
    batch = to_batch(
        groups, mask_truncated=mask_truncated, min_valid=0.0, keep_constant=algorithm.trains_constant
    )
    keeper = GradientKeeper(model)
    updater = Updater(
        model,
        keeper,
        algorithm,
        TrainSpec(micro_batch_tokens=micro_batch_tokens, logit_chunk=chunk),
        temperature=temperature,
        max_completion_tokens=20,
        abilities=Abilities(packing, chunked_head=True),
        reference=reference,
    )
    stats = updater.update(assign_credit(updater.measure(batch), algorithm))
    return stats, keeper.gradients[0] if keeper.gradients else {}


def assert_same_gradient(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 1e-5
) -> None:
    """Equal within `tolerance` of the largest entry, which must not be zero."""
    assert ours.keys() == theirs.keys()
    scale = max(gradient.abs().max().item() for gradient in theirs.values())
    assert scale > 0
    for name, gradient in theirs.items():
        torch.testing.assert_close(
            ours[name], gradient, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
