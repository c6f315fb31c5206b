"""Builds what a recipe names: data, engine, policy, their bond, evaluator, server. Cheap mistakes first.

Everything that can be wrong without loading a model is looked at before one is loaded; every part that
needs closing is closed in reverse order, whatever happens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.chat import wanting_base
from rft.data.order import TaskOrder
from rft.data.split import load_split
from rft.engine.open import open_engine, prepare_process
from rft.errors import UserError
from rft.evaluator import Evaluator
from rft.formulas import credit_of, loss_of
from rft.judging import name_base, scoring, spent_usd
from rft.models.source import locate
from rft.process import HeldMemory
from rft.recipe.resolve import resolve_environment, resolve_evaluator
from rft.recipe.schema import Recipe
from rft.rollout.chat import BaseChat
from rft.rollout.play import Player, sampling_for
from rft.runs.folder import RunFolder
from rft.runs.view import View
from rft.scoring.runner import ScoringRunner
from rft.scoring.supervision import Supervisor
from rft.serving import for_serving, listening, serve_while_training
from rft.sizes import context_limit, engine_context, fit_data, num_sequences, require_room
from rft.types import Message, Task

if TYPE_CHECKING:
    from rft.engine.vllm import VLLMEngine
    from rft.engine.weights import Weights
    from rft.learn.credit import Credit
    from rft.learn.update import Updater
    from rft.models.policy import Policy
    from rft.rollout.supply import Supply

log = logging.getLogger("rft")


@dataclass
class Parts:
    """A recipe, alive."""

    recipe: Recipe
    order: TaskOrder
    """The data; what training asks next is `supply`'s to say."""
    supply: Supply
    heldout: list[Task]
    engine: VLLMEngine
    policy: Policy
    weights: Weights
    updater: Updater
    credit: Credit | None
    """Given to `assign_credit` where the algorithm alone does not say it all."""
    player: Player
    runner: ScoringRunner
    supervisor: Supervisor
    memory: HeldMemory


@contextmanager
def assemble(
    recipe: Recipe,
    view: View,
    run: RunFolder,
    *,
    weights_from: Path | None = None,
    admit: Callable[[Evaluator], None] = lambda evaluator: None,
) -> Iterator[Parts]:
    """Opens every part and closes them again.

    Args:
        run: keeps known verdicts, and what happens to the evaluator.
        weights_from: a checkpoint's folder, to go on from, instead of the recipe's model.
        admit: sees the evaluator before anything loads, and raises UserError to refuse it.

    Raises UserError for what the recipe, the data or the machine make impossible, EngineError when no way
    of publishing weights holds.
    """
    with ExitStack() as stack:
        evaluator = resolve_evaluator(recipe.evaluator)
        judges = wanting_base(evaluator)
        name_base(recipe, judges)
        admit(evaluator)
        make_environment = resolve_environment(recipe.environment)
        sock = listening(recipe, view, stack)
        view.phase("reading data")
        split = load_split(
            recipe.data,
            num_heldout=recipe.eval.tasks,
            seed=recipe.seed,
            requires=evaluator.requires,
            answers=recipe.algorithm.examples,
        )
        for note in split.notes:
            view.note(note)

        view.phase("loading model")
        prepare_process()
        memory = HeldMemory()
        engine_spec = for_serving(recipe)
        import torch

        from rft.engine.weights import bind
        from rft.learn.critic import build_critic
        from rft.learn.fused import fuse
        from rft.learn.probe import probe
        from rft.learn.update import Updater, build_optimizer
        from rft.models.policy import Policy, load_tokenizer, pick_dtype
        from rft.rollout.conversation import ChatTemplate
        from rft.sampling import build_supply

        credit = credit_of(recipe.algorithm, evaluator)
        _require_known_sampling(recipe)
        torch.manual_seed(recipe.seed)
        folder = locate(recipe.model.source, revision=recipe.model.revision)
        dtype = pick_dtype(recipe.model.dtype)
        engine_dtype = dtype if recipe.engine.dtype == "auto" else recipe.engine.dtype
        require_room(recipe, folder, dtype, engine_dtype)
        tokenizer = load_tokenizer(folder, recipe.model)
        template = ChatTemplate(tokenizer)
        if judges:
            template.opening([Message("user", "?")])  # a model without a chat template cannot judge
        limit = context_limit(recipe, folder)
        heldout, train, context = fit_data(recipe, view, template, split, limit, tokenizer)

        engine = open_engine(
            engine_spec,
            folder if weights_from is None or recipe.model.adapter else weights_from,
            dtype=engine_dtype,
            max_model_len=engine_context(recipe, folder, context, limit, judged=bool(judges)),
            max_num_seqs=num_sequences(recipe) + (16 if judges else 0),
            seed=recipe.seed,
            plain_weights=True,
            served_name=recipe.name,
            lora_rank=recipe.model.adapter.rank if recipe.model.adapter else None,
            trust_remote_code=recipe.model.trust_remote_code,
        )
        stack.callback(engine.close)
        view.phase("binding weights")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        policy = Policy.load(recipe.model, folder, dtype=dtype, device=device, weights_from=weights_from)
        weights = bind(
            engine,
            policy,
            publish=recipe.engine.publish,
            tolerance=recipe.engine.parity_tolerance
            or (1e-4 if dtype == engine_dtype == "float32" else 0.15),
            probe_ids=[template.opening(task.prompt) for task in train[:2]],
            note=view.note,
        )
        stack.callback(weights.close)
        fuse(policy.model, recompute_mlp=recipe.model.gradient_checkpointing == "mlp")
        abilities = probe(policy.model, share_prompts=recipe.train.share_prompts, longest=context)
        for reason in abilities.reasons:
            view.note(f"update: {reason}")
        updater = Updater(
            policy.model,
            build_optimizer(policy.model, recipe.algorithm, recipe.train),
            recipe.algorithm,
            recipe.train,
            temperature=recipe.rollout.temperature,
            max_completion_tokens=context,
            abilities=abilities,
            seed=recipe.seed,
            autocast=dtype == "float32" and engine_dtype == "bfloat16",
            reference=_reference(recipe, folder, dtype, device),
            own_loss=loss_of(recipe.algorithm),
            critic=build_critic(policy.model, recipe.algorithm, recipe.train),
        )
        if sock is not None:
            serve_while_training(recipe, engine, sock, view, stack)
        for judge in judges:
            judge.base = BaseChat(engine, template, max_total_tokens=engine.max_model_len)
        runner = scoring(evaluator, recipe, view, run, stack)
        player = Player(engine, template, make_environment, recipe.rollout, max_total_tokens=context)
        order = TaskOrder(train, seed=recipe.seed, shuffle=recipe.data.shuffle)
        supply = build_supply(recipe, order, player, runner, engine, view)
        stack.callback(supply.close)
        memory.release()  # what loading has freed
        yield Parts(
            recipe=recipe,
            order=order,
            supply=supply,
            heldout=heldout,
            engine=engine,
            policy=policy,
            weights=weights,
            updater=updater,
            credit=credit,
            player=player,
            runner=runner,
            supervisor=Supervisor(runner, recipe, event=run.event, note=view.note, spent_usd=spent_usd(run)),
            memory=memory,
        )


def _require_known_sampling(recipe: Recipe) -> None:
    from rft.engine.params import vllm_params

    spec = recipe.rollout
    try:
        vllm_params(sampling_for(spec, spec.max_new_tokens, recipe.seed, spec.temperature))
    except ValueError as error:
        raise UserError(f"rollout: {error}") from error


def _reference(recipe: Recipe, folder: Path, dtype: str, device: str) -> Any:
    """The frozen starting model for a KL term; the base serves as that of a fresh adapter."""
    adapter = recipe.model.adapter
    if recipe.algorithm.beta == 0.0 or (adapter is not None and adapter.start is None):
        return None
    from rft.models.policy import Policy

    return Policy.load(recipe.model, folder, dtype=dtype, device=device).model.requires_grad_(False).eval()
