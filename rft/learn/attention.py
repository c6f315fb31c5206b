"""Attention tree by tree. A token never pays for a pair it may not see.

One dense mask over a row of T tokens costs T^2. Here a prompt attends to itself once, and its n branches
are a batch of n queries over (prompt, own branch): for a tree of a prompt of P and branches of L tokens that
is P^2 + n L (P + L) pairs instead of (P + n L)^2. Trees of about the same size are padded to the largest and
computed together, because short ones cost more in calls than in pairs. Registered with transformers under
`TREES`; forwards that name no trees (evaluation, generation, a reference) go straight to torch's scaled dot
product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rft.learn.packing import MicroBatch
from rft.learn.small_attention import SmallAttention

TREES = "rft_trees"

_FEW = 128
"""Up to so many query tokens: products are twice as fast as torch's flash kernel at 64, slower at 200."""

_WASTE = 0.5
"""Pairs that padding may add, as a share of those that have to be computed."""
_WASTED_PAIRS = 1 << 15
"""Pairs that padding may add anyhow: they take as long as the calls that a forest of its own needs."""
_MOST_PAIRS = 1 << 19
"""In one forest: its scores, of so many pairs for each head, are in memory at one time."""


@dataclass(frozen=True)
class Forest:
    """Trees that are computed together: t prompts of P tokens, each with n branches of L tokens, padded."""

    trees: int
    prompt_length: int
    branches: int
    """0: no tree has two, and a single branch counts as prompt: it simply goes on where that ended."""
    branch_length: int
    hidden_tP: Tensor | None
    """True where a prompt is padded."""


@dataclass(frozen=True)
class Trees:
    """How a row of T tokens is cut. K are the places of all forests, prompts before branches in each."""

    forests: list[Forest]
    token_K: Tensor
    """Row position of the token at each place; padding repeats one."""
    place_T: Tensor
    """Where each token of the row stands."""
    padding_Z: Tensor | None
    """Places that are padding; None where there are none."""


@dataclass(frozen=True)
class _Shape:
    """A tree's first row position, and how many tokens its prompt and its branches have."""

    start: int
    prompt: int
    branches: tuple[int, ...]

    def pairs(self) -> int:
        return _pairs([self])


def trees_of(micro_batch: MicroBatch) -> Trees:
    """The trees of a row, sorted into forests."""
    shapes: list[_Shape] = []
    start = 0
    for length in torch.bincount(micro_batch.tree_T).tolist():
        prompt, *lengths = torch.bincount(micro_batch.branch_T[start : start + length]).tolist()
        branches = tuple(one for one in lengths if one)
        if len(branches) < 2:
            prompt, branches = length, ()
        shapes.append(_Shape(start, prompt, branches))
        start += length
    return _planted(_sorted(shapes), micro_batch.tree_T)


def _pairs(together: list[_Shape]) -> int:
    prompt, branches, length = _largest(together)
    return len(together) * (prompt * prompt + branches * length * (prompt + length))


def _largest(together: list[_Shape]) -> tuple[int, int, int]:
    """P, n and L."""
    return (
        max(shape.prompt for shape in together),
        max(len(shape.branches) for shape in together),
        max(max(shape.branches, default=0) for shape in together),
    )


def _sorted(shapes: list[_Shape]) -> list[list[_Shape]]:
    """Trees of one kind, largest first, as long as padding stays cheap."""
    forests: list[list[_Shape]] = []
    needed = 0
    for shape in sorted(shapes, key=lambda shape: (len(shape.branches) == 0, -shape.pairs())):
        joined = [*forests[-1], shape] if forests else [shape]
        pairs, needed = _pairs(joined), needed + shape.pairs()
        same_kind = bool(joined[0].branches) == bool(shape.branches)
        cheap = pairs - needed <= max(_WASTED_PAIRS, _WASTE * needed) and pairs <= _MOST_PAIRS
        if forests and same_kind and cheap:
            forests[-1] = joined
        else:
            forests.append([shape])
            needed = shape.pairs()
    return forests


def _planted(forests: list[list[_Shape]], tree_T: Tensor) -> Trees:
    """The places of sorted trees."""
    tokens: list[Tensor] = []
    real: list[Tensor] = []
    made: list[Forest] = []

    def add(start: int, length: int, padded: int) -> None:
        # Padding repeats the first token: behind it, where no real token sees it, or hidden.
        place = torch.arange(padded)
        real.append(place < length)
        tokens.append(start + place * real[-1])

    for together in forests:
        prompt, branches, longest = _largest(together)
        for shape in together:
            add(shape.start, shape.prompt, prompt)
        padded = any(shape.prompt < prompt for shape in together)
        hidden_tP = ~torch.stack(real[-len(together) :]).to(tree_T.device) if branches and padded else None
        for shape in together:
            start = shape.start + shape.prompt
            for length in shape.branches:
                add(start, length, longest)
                start += length
            for _ in range(branches - len(shape.branches)):
                add(shape.start, 0, longest)
        made.append(Forest(len(together), prompt, branches, longest, hidden_tP))
    token_K, real_K = torch.cat(tokens), torch.cat(real)
    place_T = torch.empty(len(tree_T), dtype=torch.long)
    place_T[token_K[real_K]] = real_K.nonzero()[:, 0]
    padding_Z = None if real_K.all() else (~real_K).nonzero()[:, 0].to(tree_T.device)
    return Trees(made, token_K.to(tree_T.device), place_T.to(tree_T.device), padding_Z)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    trees: Trees | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query, key, value [1, heads, T, D] to [1, T, heads, D]."""
    if trees is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    lengths: list[int] = []
    for forest in trees.forests:
        lengths.append(forest.trees * forest.prompt_length)
        if forest.branches:
            lengths.append(forest.trees * forest.branches * forest.branch_length)
    # Split, not sliced: the gradient of a split is one concatenation, that of n slices is n tensors of zeros.
    segments = zip(
        *(
            _Placed.apply(states[0].transpose(0, 1), trees.token_K, trees.place_T).split(lengths)
            for states in (query, key, value)
        ),
        strict=True,
    )
    parts: list[Tensor] = []
    for forest in trees.forests:
        prompt = [states.unflatten(0, (forest.trees, 1, -1)) for states in next(segments)]
        parts.append(_attend(module, prompt, None, None, kwargs))
        if forest.branches:
            branches = [states.unflatten(0, (forest.trees, forest.branches, -1)) for states in next(segments)]
            parts.append(_attend(module, branches, prompt[1:], forest.hidden_tP, kwargs))
    result: Tensor = _Taken.apply(torch.cat(parts), trees.token_K, trees.place_T, trees.padding_Z)
    return result[None], None


class _Placed(torch.autograd.Function):
    """[T, heads, D] to [K, heads, D]. The gradient at padding must be zero, as `_Taken` sees to."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, token_K: Tensor, place_T: Tensor) -> Tensor:
        ctx.save_for_backward(place_T)
        return states.index_select(0, token_K)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Taken(torch.autograd.Function):
    """[K, heads, D] to [T, heads, D]."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, token_K: Tensor, place_T: Tensor, padding_Z: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(token_K, padding_Z)
        return states.index_select(0, place_T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        token_K, padding_Z = ctx.saved_tensors
        padded = gradients[0].index_select(0, token_K)
        if padding_Z is not None:
            padded.index_fill_(0, padding_Z, 0.0)
        return padded, None, None, None


def _attend(
    module: nn.Module,
    states: list[Tensor],
    prefix: list[Tensor] | None,
    hidden_tP: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """Query, key and value, [t, n, L, heads, D] each, to [t * n * L, heads, D], causally.

    `prefix` holds keys and values [t, 1, P, heads, D] that all n of a tree see first, but for hidden ones.
    """
    query, key, value = states
    trees, n, length = query.shape[:3]
    few = query.device.type == "cpu" and length <= _FEW
    if few and not options.get("dropout") and options.get("position_bias") is None:
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        # Under autocast, rotary embeddings leave float32; the casts stand where autograd sees them.
        query, key = query.to(value.dtype), key.to(value.dtype)
        ahead = () if prefix is None else (*(one[:, 0].to(value.dtype) for one in prefix), hidden_tP)
        attended: Tensor = SmallAttention.apply(query, key, value, scale, *ahead)
        return attended.flatten(0, 2)
    mask = None
    if prefix is not None:
        key, value = (
            torch.cat([first.expand(-1, n, -1, -1, -1), own], dim=2)
            for first, own in zip(prefix, (key, value), strict=True)
        )
        ahead_P = prefix[0].shape[2]
        mask = torch.ones(length, ahead_P + length, dtype=torch.bool, device=query.device).tril(ahead_P)
        mask = mask[None, None]
        if hidden_tP is not None:
            mask = mask.repeat(trees, 1, 1, 1)
            mask[..., :ahead_P] &= ~hidden_tP[:, None, None]
            mask = mask.repeat_interleave(n, 0)
    heads_first = [one.flatten(0, 1).transpose(1, 2) for one in (query, key, value)]
    return sdpa_attention_forward(module, *heads_first, mask, **options)[0].flatten(0, 1)


AttentionInterface.register(TREES, tree_attention)
AttentionMaskInterface.register(TREES, sdpa_mask)
