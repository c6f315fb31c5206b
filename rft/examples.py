"""What learning from examples needs beside a policy: examples that fit, and a reference to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rft.data.fit import Dropped, fit_prompts
from rft.models.source import locate
from rft.recipe.schema import Examples, Recipe
from rft.types import Task

if TYPE_CHECKING:
    from torch import nn

    from rft.models.policy import Policy


def fit_examples(
    kind: Examples, tasks: Sequence[Task], tokenizer: Any, limit: int, note: Callable[[str], None]
) -> tuple[list[Task], Dropped]:
    """Examples whose prompt and answer have at most `limit` tokens, and the account of the rest.

    Args:
        note: is told of prompts that have other tokens when an answer follows them.

    Raises DataError when none fits.
    """
    from rft.learn.preference import example_tokens, is_continued

    fitting, dropped = fit_prompts(
        tasks, lambda task: example_tokens(tokenizer, task, kind), limit, what="examples"
    )
    parted = [task.id for task in fitting if not is_continued(tokenizer, task, kind)]
    if parted:
        note(
            f"training: {len(parted)} of {len(fitting)} prompts end in other tokens once the answer follows "
            f"(task {parted[0]}), so the model learns from other prompts than it is asked; end a plain "
            "prompt where a word ends, or see model.chat_template"
        )
    return fitting, dropped


def reference_model(recipe: Recipe, policy: Policy) -> nn.Module | None:
    """The frozen model that DPO and KTO compare with: the policy as the recipe starts it. None for SFT.

    An adapter's reference has the policy's own base, so it costs the memory of an adapter at most.
    """
    if not recipe.algorithm.needs_reference:
        return None
    from rft.models.policy import Policy

    adapter = recipe.model.adapter
    fresh = adapter is not None  # a new adapter changes nothing, so the base alone is the start
    model = recipe.model.model_copy(
        update={"gradient_checkpointing": "none"} | ({"adapter": None} if fresh else {})
    )
    dtype = str(next(parameter for _, parameter in policy.base_parameters()).dtype).removeprefix("torch.")
    start = Policy.load(
        model, locate(model.source, revision=model.revision), dtype=dtype, device=str(policy.device)
    )
    if adapter is not None:
        shared = dict(policy.base_parameters())
        for name, parameter in start.base_parameters():
            parameter.data = shared[name].data
    return start.model.requires_grad_(False).eval()
