"""PPO's critic: what a rollout can be expected to earn from here on, one value for each policy token.

The value of a token is the value of the state it was sampled in, so it is read from the hidden state that
predicts the token: where prompts are shared, a prompt's last token gives the first value of every branch.

    head    a linear layer on the hidden states of the policy's own trunk, which are there already: no second
            pass. The value loss reaches the trunk, weighed by `critic.coef`.
    model   a trunk of its own, without an output layer, that starts as the policy's. What the policy trains
            is copied, what it keeps frozen is shared: a second model where all weights are trained, and a
            second adapter on the same base where an adapter is.

The layer on top is float32 whatever the trunk's dtype, and starts at zero: a critic that has seen nothing
expects nothing. InstructGPT (arXiv:2203.02155, appendix C.4) starts its critic from the reward model; an
evaluator is no model, so ours starts from the policy, and `critic.warmup_steps` lets it catch up.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rft.learn.logprobs import forward_inputs, unwrapped
from rft.learn.optimizer import PolicyOptimizer, learning_rate
from rft.learn.packing import MicroBatch
from rft.recipe.schema import AlgorithmSpec, TrainSpec

_VALUE_STEP = 0.05
"""Reward that a head's values may move by in one optimizer step. AdamW moves each of D weights by about its
rate, so a value, their sum over hidden states of about 1 each, by D times that: one rate for all widths would
be far too high for one model or far too low for another."""


class Critic(nn.Module):
    """A value function with its optimizer. No part of the policy: no engine and no saved model sees it."""

    def __init__(self, policy: nn.Module, algorithm: AlgorithmSpec, train: TrainSpec) -> None:
        """
        Args:
            policy: the trained model, bound to its engine, fused and probed: a trunk is copied as it is.
            algorithm: `algorithm.critic` says which kind and how it learns.
            train: optimizer settings and the run's length.
        """
        super().__init__()
        spec = algorithm.critic
        base = unwrapped(policy)
        width = base.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, dtype=torch.float32, device=base.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.trunk = _twin(base.get_decoder()) if spec.kind == "model" else None
        rate = _VALUE_STEP / width if self.trunk is None else learning_rate(policy, train)
        self.optimizer = PolicyOptimizer.by_recipe(
            self.named_parameters(),
            train,
            learning_rate=spec.learning_rate or rate,
            total_steps=train.steps * algorithm.num_iterations * algorithm.minibatches,
        )

    @property
    def on_policy_trunk(self) -> bool:
        """Whether values come from the policy's hidden states, and their loss goes into its trunk."""
        return self.trunk is None

    def forward(self, row: MicroBatch, hidden_TD: Tensor | None = None) -> Tensor:
        """Values of a row's policy tokens, float32 [M].

        Args:
            row: on the critic's device.
            hidden_TD: the policy's, for a head on its trunk; unset, a trunk of its own computes them.
        """
        if hidden_TD is None:
            if self.trunk is None:
                raise ValueError("a value head needs the hidden states of the policy's trunk")
            hidden_TD = trunk_states(self.trunk, row)
        with torch.autocast(hidden_TD.device.type, enabled=False):
            values_M1: Tensor = self.head(hidden_TD[row.source_M].float())
        return values_M1[:, 0]

    def state(self) -> dict[str, Any]:
        """All that an exact continuation needs; tensors are not copied."""
        trained = {name: one.detach() for name, one in self.named_parameters() if one.requires_grad}
        return {"parameters": trained, "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Restores `state()`. Raises ValueError when it is of another critic."""
        # The optimizer compares the names, and writes parameters of less than float32 from its masters.
        self.optimizer.load_state_dict(state["optimizer"])
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(state["parameters"][name])


def build_critic(policy: nn.Module, algorithm: AlgorithmSpec, train: TrainSpec) -> Critic | None:
    """The critic a recipe asks for; see `Critic`."""
    return Critic(policy, algorithm, train) if algorithm.kind == "ppo" else None


def trunk_states(trunk: Any, row: MicroBatch) -> Tensor:
    """Hidden states of a row's tokens, [T, D], as the output layer sees them."""
    states_TD: Tensor = trunk(**forward_inputs(trunk, row)).last_hidden_state[0]
    return states_TD


@contextmanager
def overheard(policy: nn.Module) -> Iterator[list[Tensor]]:
    """What the policy's trunk gives while this is held: a list that gets [T, D] for each forward.

    Log-probabilities come out of a forward of the policy, whichever way its head is computed; this way they
    need not know who else reads the hidden states.
    """
    states: list[Tensor] = []
    trunk: Any = unwrapped(policy).get_decoder()
    hook = trunk.register_forward_hook(lambda _, __, output: states.append(output.last_hidden_state[0]))
    try:
        yield states
    finally:
        hook.remove()


def _twin(trunk: nn.Module) -> nn.Module:
    """A copy that shares the frozen parameters and has its own trained ones."""
    shared = {id(one): one for one in trunk.parameters() if not one.requires_grad}
    return copy.deepcopy(trunk, memo=shared)
