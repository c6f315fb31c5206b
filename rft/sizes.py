"""How large things must be: context, requests at a time, memory; and which tasks fit.

Computed from the recipe, the model's configuration and the data, so that few recipes need to say them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rft.data.fit import fit_prompts
from rft.data.split import Split
from rft.errors import UserError
from rft.examples import fit_examples
from rft.models.memory import needed_memory_gb, num_parameters, require_memory
from rft.recipe.schema import Recipe
from rft.runs.view import View
from rft.types import Task

_SERVED_CONTEXT = 2048  # tokens; clients of the endpoint ask more than the recipe's own tasks
_JUDGED_CONTEXT = 3072  # tokens; what a judge is told and says besides the texts it judges
_MOST_SEQUENCES = 256


def context_limit(recipe: Recipe, folder: Path) -> int:
    """Tokens a sequence may have at most, by the model or the recipe."""
    longest = _model_limit(recipe, folder)
    return min(longest, recipe.rollout.max_total_tokens or longest)


def conversation_tokens(recipe: Recipe, longest_prompt: int, limit: int) -> int:
    """Tokens that a prompt and all that follows it may need, at most `limit`."""
    spec = recipe.rollout
    if recipe.environment.use == "single_turn":
        return min(longest_prompt + spec.max_new_tokens, limit)
    # Every turn may be answered at length.
    return min(longest_prompt + spec.max_turns * (2 * spec.max_new_tokens), limit)


def engine_context(recipe: Recipe, folder: Path, context: int, limit: int, *, judged: bool) -> int:
    """Tokens the engine takes in one request: `context` for rollouts, more for clients and judges."""
    longest = max(context, min(limit, _SERVED_CONTEXT)) if recipe.serve else context
    if judged:  # by a judge that may be shown a whole group
        members = max(recipe.rollout.group_size, recipe.eval.samples)
        asked = context + members * recipe.rollout.max_new_tokens + _JUDGED_CONTEXT
        longest = max(longest, min(_model_limit(recipe, folder), asked))
    return longest


def num_sequences(recipe: Recipe) -> int:
    """Requests decoded together: a whole step, and some more for those who ask over HTTP."""
    step = recipe.train.prompts_per_step * recipe.rollout.group_size
    return min(max(step, 32), _MOST_SEQUENCES) + (16 if recipe.serve else 0)


def fit_data(
    recipe: Recipe, view: View, template: Any, split: Split, limit: int, tokenizer: Any
) -> tuple[list[Task], list[Task], int]:
    """Tasks that fit, and the tokens that prompt and answers need together."""
    spec = recipe.rollout
    room = limit - spec.max_new_tokens
    if room < 1:
        raise UserError(
            f"rollout.max_new_tokens is {spec.max_new_tokens}, but prompt and answer together can have "
            f"{limit} tokens (model, engine.max_model_len, rollout.max_total_tokens); lower it"
        )
    kept = []
    longest = 0
    kind = recipe.algorithm.examples
    for name, tasks in (("held-out", split.heldout), ("training", split.train)):
        if kind is not None and tasks is split.train:
            fitting, dropped = fit_examples(kind, tasks, tokenizer, limit, view.note)
        else:
            fitting, dropped = fit_prompts(tasks, template.count, room)
        if dropped.count:
            view.note(f"{name}: {dropped}")
        longest = max(longest, min(dropped.longest, room))
        kept.append(fitting)
    return kept[0], kept[1], conversation_tokens(recipe, longest, limit)


def require_room(recipe: Recipe, folder: Path, dtype: str, engine_dtype: str) -> None:
    """Raises ModelError, before anything large loads, when policy, engine and all beside them cannot fit."""
    import torch

    adapter = recipe.model.adapter
    total = num_parameters(folder)
    hidden_size = _text_config(recipe, folder).hidden_size
    need = needed_memory_gb(
        total,
        train_dtype=dtype,
        engine_dtype=engine_dtype,
        master_weights=recipe.train.optimizer.master_weights and adapter is None,
        # Rank r adds r (in + out) to a layer's in * out: with narrow keys and values about 3 r / hidden size.
        adapter_params=3 * total * adapter.rank // hidden_size if adapter else 0,
        kv_cache_gb=recipe.engine.kv_cache_gb or 0.0,
        shared=recipe.engine.publish != "copy",
        reference=recipe.algorithm.needs_reference and adapter is None,
        critic=recipe.algorithm.kind == "ppo" and recipe.algorithm.critic.kind == "model",
    )
    free = torch.cuda.mem_get_info()[0] / 1e9 if torch.cuda.is_available() else None
    require_memory(need, available_gb=free)


def _model_limit(recipe: Recipe, folder: Path) -> int:
    own = int(getattr(_text_config(recipe, folder), "max_position_embeddings", 1 << 20))
    return min(own, recipe.engine.max_model_len or own)


def _text_config(recipe: Recipe, folder: Path) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=recipe.model.trust_remote_code)
    return config.get_text_config()
