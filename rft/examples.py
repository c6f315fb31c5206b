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

    An adapter's reference stands on the policy's own base, so it keeps no more than an adapter.
    """
    if not recipe.algorithm.needs_reference:
        return None
    from rft.models.policy import Policy

    adapter = recipe.model.adapter
    # A fresh adapter changes nothing, so the base alone is the start.
    keep = adapter is not None and adapter.start is not None
    changes = {"gradient_checkpointing": "none"} | ({} if keep else {"adapter": None})
    spec = recipe.model.model_copy(update=changes)
    dtype = str(next(parameter for _, parameter in policy.base_parameters()).dtype).removeprefix("torch.")
    folder = locate(spec.source, revision=spec.revision)
    start = Policy.load(spec, folder, dtype=dtype, device=str(policy.device))
    if adapter is not None:
        shared = dict(policy.base_parameters())
        for name, parameter in start.base_parameters():
            parameter.data = shared[name].data
    model: Any = start.model.get_base_model() if keep else start.model  # type: ignore[operator]  # peft's
    return model.requires_grad_(False).eval()
