"""A model ready to answer tasks, wherever it lives: a run, a checkpoint, a model, or somebody's endpoint.

Whoever compares models, samples from one or holds one to a score opens it here, so all of them see the same
answers. A local model runs on the embedded engine, alone; nobody writes its weights, so vLLM may repack them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from rft import background
from rft.data.fit import fit_prompts
from rft.models.source import locate
from rft.recipe.resolve import resolve_environment
from rft.recipe.schema import ModelSpec, Recipe
from rft.rollout.endpoint import Endpoint, EndpointPlayer
from rft.rollout.play import AnyPlayer, Player
from rft.runs.view import View
from rft.sizes import context_limit, conversation_tokens
from rft.target import Target, open_target, resolve_target
from rft.types import Task

_ENDPOINT = re.compile(r"https?://")
_MOST_SEQUENCES = 128


@dataclass(frozen=True)
class Contestant:
    """A model ready to answer."""

    player: AnyPlayer
    tasks: list[Task]
    """Those that fit into its context."""
    left_out: int
    weights: str
    """The folder or the address that answers."""
    version: int | None
    """Of the weights; None where an endpoint keeps it to itself."""


def open_model(
    name: str | None,
    recipe: Recipe,
    tasks: Sequence[Task],
    *,
    view: View,
    api_key: str | None = None,
    concurrency: int = 16,
    output_dir: str = "runs",
) -> AbstractContextManager[Contestant]:
    """Opens a model, and closes it when the context is left.

    Args:
        name: a run, a checkpoint, a model source (see `rft.target`) or an endpoint `http://host/v1#name`;
            None for the recipe's own model.
        recipe: says how to sample, with which environment and engine; `eval.samples` answers a task.
        tasks: what it will be asked; the longest one sizes its context.
        concurrency: conversations with an endpoint at a time.

    Raises UserError for a model that cannot be found or opened.
    """
    asked = recipe.model.source if name is None else name
    if _ENDPOINT.match(asked):
        return _endpoint(asked, recipe, list(tasks), api_key, concurrency)
    if name is None:
        target = Target(asked, locate(asked, revision=recipe.model.revision))
    else:
        target = resolve_target(name, output_dir)
    return _local(target, asked, recipe, list(tasks), view)


@contextmanager
def _local(target: Target, name: str, recipe: Recipe, tasks: list[Task], view: View) -> Iterator[Contestant]:
    from rft.models.policy import load_tokenizer, pick_dtype
    from rft.rollout.conversation import ChatTemplate

    # The recipe's template and its trust in code are for its own model and what was trained from it.
    own = target.model_dir == locate(recipe.model.source, revision=recipe.model.revision)
    spec = recipe.model if own else ModelSpec(source=str(target.model_dir))
    template = ChatTemplate(load_tokenizer(target.tokenizer_dir, spec))
    limit = context_limit(recipe, target.model_dir)
    tasks, dropped = fit_prompts(tasks, template.count, limit - recipe.rollout.max_new_tokens)
    if dropped.count:
        view.note(f"{name}: {dropped}")
    longest = max(template.count(task) for task in tasks)
    context = conversation_tokens(recipe, longest, limit)
    dtype = pick_dtype(recipe.model.dtype if recipe.engine.dtype == "auto" else recipe.engine.dtype)
    engine = open_target(
        target,
        recipe.engine,
        dtype=dtype,
        max_model_len=context,
        max_num_seqs=min(len(tasks) * recipe.eval.samples, _MOST_SEQUENCES),
        seed=recipe.seed,
        served_name=target.name,
        trust_remote_code=spec.trust_remote_code,
    )
    try:
        player = Player(engine, template, resolve_environment(recipe.environment), recipe.rollout, context)
        weights = str(target.adapter_dir or target.model_dir)
        yield Contestant(player, tasks, dropped.count, weights, target.version)
    finally:
        engine.close()


@contextmanager
def _endpoint(
    address: str, recipe: Recipe, tasks: list[Task], api_key: str | None, concurrency: int
) -> Iterator[Contestant]:
    endpoint = Endpoint(address, api_key=api_key, timeout_s=recipe.rollout.timeout_s)
    try:
        background.run(endpoint.connect())
        make_environment = resolve_environment(recipe.environment)
        player = EndpointPlayer(endpoint, make_environment, recipe.rollout, concurrency=concurrency)
        yield Contestant(player, tasks, 0, f"{endpoint.url}#{endpoint.model}", None)
    finally:
        background.run(endpoint.close())
