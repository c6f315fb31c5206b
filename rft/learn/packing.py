"""How sequences become rows of tokens without padding, and what each token of a row may see.

A row holds several trees one after the other. A tree is a prompt and the branches that continue it:

    tokens     [p p p a a b b b] [q q c]        two trees; prompt p with branches a and b, prompt q with c
    positions   0 1 2 3 4 3 4 5   0 1 2         each branch goes on where its prompt ended
    branch      0 0 0 1 1 2 2 2   0 0 1         0 is the prompt

A token sees earlier tokens of its own tree that are in the prompt or in its own branch. So a prompt
is computed once for all its completions, and the last token of a prompt predicts the first token of
each branch. A branch's last token predicts nothing and is not computed at all.

Three ways to pack, the first two equal in result wherever the model is plain causal attention:

    shared  trees of many branches; needs a model that takes a 4-D attention mask
    packed  one branch per tree, many trees per row, told apart by positions that restart
    single  one sequence per row: right for every causal language model
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rft.learn.batch import Batch, TokenSequence

Packing = Literal["shared", "packed", "single"]


@dataclass(frozen=True)
class MicroBatch:
    """One row. Axes: T tokens of the row, M policy tokens that it predicts."""

    token_ids_T: Tensor
    position_ids_T: Tensor
    tree_T: Tensor
    branch_T: Tensor
    source_M: Tensor
    """Row position whose hidden state predicts the policy token; a prompt's end occurs once per branch."""
    index_M: Tensor
    """Where the policy token stands on the batch's axis N."""
    target_ids_M: Tensor
    packing: Packing

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same row on another device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return MicroBatch(**tensors, packing=self.packing)


@dataclass
class _Tree:
    prompt: tuple[int, ...]
    branches: list[TokenSequence]

    @property
    def size(self) -> int:
        return len(self.prompt) + sum(_branch_size(branch) for branch in self.branches)


def pack(
    batch: Batch, members: Iterable[int], *, micro_batch_tokens: int, packing: Packing
) -> list[MicroBatch]:
    """Cuts sequences of a batch into rows of at most `micro_batch_tokens` tokens.

    Sequences that do not train or sampled nothing are left out. A prompt whose branches exceed the
    budget is repeated in several trees; a single sequence above the budget gets a row of its own.

    Args:
        batch: where the sequences are.
        members: indices on its axis S.
        micro_batch_tokens: the budget; it bounds memory and does not change the gradient.
        packing: see the module's docstring.
    """
    chosen = [batch.sequences[index] for index in members if batch.trains_S[index]]
    chosen = [sequence for sequence in chosen if sequence.policy_positions]
    if packing == "shared":
        trees = _shared_trees(chosen, micro_batch_tokens)
    else:
        trees = [_Tree(sequence.token_ids[: sequence.prompt_length], [sequence]) for sequence in chosen]
    rows = [[tree] for tree in trees] if packing == "single" else _first_fit(trees, micro_batch_tokens)
    return [_row(batch, row, packing) for row in rows]


def attention_mask(micro_batch: MicroBatch) -> Tensor:
    """Which tokens see which, bool [T, T]: True at [i, j] lets token i attend to token j."""
    tree_T, branch_T = micro_batch.tree_T, micro_batch.branch_T
    same_tree_TT = tree_T[:, None] == tree_T[None, :]
    same_branch_TT = branch_T[:, None] == branch_T[None, :]
    visible_TT = same_tree_TT & (same_branch_TT | (branch_T == 0)[None, :])
    return visible_TT.tril()


def _branch_size(sequence: TokenSequence) -> int:
    # Up to, and without, the last policy token: it has nothing left to predict.
    return sequence.policy_positions[-1] - sequence.prompt_length


def _shared_trees(sequences: list[TokenSequence], budget: int) -> list[_Tree]:
    by_prompt: dict[tuple[int, ...], list[TokenSequence]] = {}
    for sequence in sequences:
        by_prompt.setdefault(sequence.token_ids[: sequence.prompt_length], []).append(sequence)
    trees: list[_Tree] = []
    for prompt, branches in by_prompt.items():
        split: list[_Tree] = []
        for branch in sorted(branches, key=_branch_size, reverse=True):
            home = next((tree for tree in split if tree.size + _branch_size(branch) <= budget), None)
            if home is None:
                home = _Tree(prompt, [])
                split.append(home)
            home.branches.append(branch)
        trees += split
    return trees


def _first_fit(trees: list[_Tree], budget: int) -> list[list[_Tree]]:
    """First fit, longest first: at most 11/9 of the fewest rows possible (Johnson 1973)."""
    rows: list[list[_Tree]] = []
    room: list[int] = []
    for tree in sorted(trees, key=lambda tree: tree.size, reverse=True):
        number = next((row for row, free in enumerate(room) if free >= tree.size), None)
        if number is None:
            number = len(rows)
            rows.append([])
            room.append(budget)
        rows[number].append(tree)
        room[number] -= tree.size
    return rows


def _row(batch: Batch, trees: list[_Tree], packing: Packing) -> MicroBatch:
    tokens: list[int] = []
    positions: list[int] = []
    tree_ids: list[int] = []
    branch_ids: list[int] = []
    sources: list[int] = []
    indices: list[int] = []
    for tree_id, tree in enumerate(trees):
        prompt_length = len(tree.prompt)
        prompt_end = len(tokens) + prompt_length - 1
        tokens += tree.prompt
        positions += range(prompt_length)
        branch_ids += [0] * prompt_length
        for branch_id, branch in enumerate(tree.branches, start=1):
            size = _branch_size(branch)
            # Row position of the sequence's position p (p at or past the prompt's end) is shift + p.
            shift = len(tokens) - prompt_length
            tokens += branch.token_ids[prompt_length : prompt_length + size]
            positions += range(prompt_length, prompt_length + size)
            branch_ids += [branch_id] * size
            sources += [
                prompt_end if position == prompt_length else shift + position - 1
                for position in branch.policy_positions
            ]
            indices += range(branch.start, branch.start + len(branch.policy_positions))
        tree_ids += [tree_id] * (len(tokens) - len(tree_ids))
    index_M = torch.tensor(indices, dtype=torch.long)
    return MicroBatch(
        token_ids_T=torch.tensor(tokens),
        position_ids_T=torch.tensor(positions),
        tree_T=torch.tensor(tree_ids),
        branch_T=torch.tensor(branch_ids),
        source_M=torch.tensor(sources),
        index_M=index_M,
        target_ids_M=batch.target_ids_N[index_M],
        packing=packing,
    )
