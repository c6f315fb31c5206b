"""The model that a KL term compares the policy with: the start of the run, or a slow follower.

It never needs a second module. Three ways, by memory:

    a fresh adapter, no following    the policy with its adapters disabled        nothing
    any other adapter                a copy of the adapter's tensors              an adapter
    full fine-tuning                 the starting values of what is trained       a model

Where there are tensors, they stand in for the policy's own while the reference is asked, and the policy's
come back, in the same memory as before: whoever else reads them sees nothing of it.

With `sync_every` the reference moves towards the policy: reference <- mix policy + (1 - mix) reference, every
so many updates (TR-DPO, arXiv:2404.09656). As in TRL an adapter's two factors are mixed, not their product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rft.recipe.schema import KLSpec


class Reference:
    """Asked inside `active()`, through the policy module itself."""

    def __init__(self, policy: nn.Module, kl: KLSpec, start: nn.Module | None = None) -> None:
        """
        Args:
            policy: the model that is trained; its parameters have the values to start from.
            start: a frozen model of the same architecture with the values to start from, where the policy's
                are no longer those (a run that goes on). It is emptied of nothing and may be dropped.

        Raises ValueError when there is neither an adapter nor `start`.
        """
        adapter = hasattr(policy, "disable_adapter")
        if start is None and not adapter:
            raise ValueError("algorithm.beta is not 0: give a reference model, or train an adapter")
        self._policy, self._kl = policy, kl
        self._updates = 0
        self._tensors: dict[str, Tensor] = {}
        if start is not None:
            values = dict(start.named_parameters())
            self._tensors = {name: values[name].detach() for name, _ in self._trained()}
        elif kl.sync_every:
            self._tensors = {name: one.detach().clone() for name, one in self._trained()}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, one) for name, one in self._policy.named_parameters() if one.requires_grad)

    @contextmanager
    def active(self) -> Iterator[None]:
        """While inside, the policy module computes as the reference; not to be trained meanwhile."""
        if not self._tensors:
            disable: Callable[[], AbstractContextManager[None]]
            disable = self._policy.disable_adapter  # type: ignore[assignment]  # peft's, checked in __init__
            with disable():
                yield
            return
        own = {name: one.data for name, one in self._trained()}
        try:
            for name, one in self._trained():
                one.data = self._tensors[name]
            yield
        finally:
            for name, one in self._trained():
                one.data = own[name]

    @torch.no_grad()
    def follow(self) -> bool:
        """After each update. Returns whether the reference moved."""
        self._updates += 1
        if not self._kl.sync_every or self._updates % self._kl.sync_every:
            return False
        for name, one in self._trained():
            self._tensors[name].lerp_(one.detach(), self._kl.sync_mix)
        return True

    def state(self) -> dict[str, Any]:
        """What an exact continuation needs: tensors only where the reference moves; they are not copied."""
        return {"updates": self._updates, "tensors": self._tensors if self._kl.sync_every else {}}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`. Raises ValueError when it is of other parameters."""
        tensors: dict[str, Tensor] = state["tensors"]
        if tensors and tensors.keys() != self._tensors.keys():
            strange = sorted(tensors.keys() ^ self._tensors.keys())[:5]
            raise ValueError(f"the reference's state is of another model; differing: {', '.join(strange)}")
        for name, one in tensors.items():
            self._tensors[name].copy_(one)
        self._updates = state["updates"]
