"""Builds what a recipe names: data, engine, policy, their bond, evaluator, server. Cheap mistakes first.

Everything that can be wrong without loading a model is looked at before one is loaded; every part that
needs closing is closed in reverse order, whatever happens.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft import background
from rft.chat import WantsBase, wanting_base
from rft.data.fit import fit_prompts
from rft.data.order import TaskOrder
from rft.data.split import Split, load_split
from rft.engine.open import open_engine, prepare_process
from rft.errors import UserError
from rft.evaluator import Evaluator
from rft.examples import fit_examples
from rft.formulas import credit_of, loss_of
from rft.http.evaluator import RUN_VARIABLE
from rft.models.memory import needed_memory_gb, num_parameters, require_memory
from rft.models.source import locate
from rft.recipe.resolve import resolve_environment, resolve_evaluator
from rft.recipe.schema import EngineSpec, Recipe
from rft.rollout.chat import BaseChat
from rft.rollout.play import Player, sampling_for
from rft.runs.folder import RunFolder
from rft.runs.view import View
from rft.scoring.cache import ScoreCache
from rft.scoring.journal import Journal
from rft.scoring.runner import ScoringRunner
from rft.scoring.supervision import Supervisor, reporter
from rft.types import Message, Task

if TYPE_CHECKING:
    from rft.engine.vllm import VLLMEngine
    from rft.engine.weights import Weights
    from rft.learn.credit import Credit
    from rft.learn.update import Updater
    from rft.models.policy import Policy
    from rft.rollout.supply import Supply

log = logging.getLogger("rft")

_SERVED_CONTEXT = 2048  # tokens; clients of the endpoint ask more than the recipe's own tasks
_JUDGED_CONTEXT = 3072  # tokens; what a judge is told and says besides the texts it judges
_MOST_SEQUENCES = 256


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
        _name_base(recipe, judges)
        admit(evaluator)
        make_environment = resolve_environment(recipe.environment)
        sock = _listen(recipe, view, stack)
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
        engine_spec = _for_serving(recipe)
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
        _require_room(recipe, folder, dtype, engine_dtype)
        tokenizer = load_tokenizer(folder, recipe.model)
        template = ChatTemplate(tokenizer)
        if judges:
            template.opening([Message("user", "?")])  # a model without a chat template cannot judge
        limit = context_limit(recipe, folder)
        heldout, train, context = _fitting(recipe, view, template, split, limit, tokenizer)

        engine = open_engine(
            engine_spec,
            folder if weights_from is None or recipe.model.adapter else weights_from,
            dtype=engine_dtype,
            max_model_len=_engine_context(recipe, folder, context, limit, judged=bool(judges)),
            max_num_seqs=_sequences(recipe) + (16 if judges else 0),
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
            autocast=dtype == "float32" and engine_dtype == "bfloat16",
            reference=_reference(recipe, folder, dtype, device),
            own_loss=loss_of(recipe.algorithm),
            critic=build_critic(policy.model, recipe.algorithm, recipe.train),
        )
        if sock is not None:
            _serve(recipe, engine, sock, view, stack)
        for judge in judges:
            judge.base = BaseChat(engine, template, max_total_tokens=engine.max_model_len)
        runner = _scoring(evaluator, recipe, view, run, stack)
        player = Player(engine, template, make_environment, recipe.rollout, max_total_tokens=context)
        order = TaskOrder(train, seed=recipe.seed, shuffle=recipe.data.shuffle)
        supply = build_supply(recipe, order, player, runner, engine, view)
        stack.callback(supply.close)
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
            supervisor=Supervisor(runner, recipe, event=run.event, note=view.note, spent_usd=_spent(run)),
        )


def _scoring(
    evaluator: Evaluator, recipe: Recipe, view: View, run: RunFolder, stack: ExitStack
) -> ScoringRunner:
    cache = None
    if recipe.scoring.cache is not None:
        path = run.scores_path if recipe.scoring.cache == "run" else _user_cache()
        cache = ScoreCache(path, view.note)
        stack.callback(cache.close)
    os.environ[RUN_VARIABLE] = run.id
    max_usd = recipe.scoring.max_usd or evaluator.limits.max_usd
    if max_usd is not None:
        max_usd = max(0.0, max_usd - _spent(run))
    journal = Journal(run.journal_path, view.note)
    stack.callback(journal.close)
    surroundings = {"on_event": reporter(run.event, view.note), "cache": cache, "journal": journal}
    return score_with(evaluator, stack, **surroundings, max_usd=max_usd)


def _spent(run: RunFolder) -> float:
    """Dollars that a run which goes on has spent already."""
    return float(next((one["cost/usd"] for one in reversed(run.metrics()) if "cost/usd" in one), 0.0))


def _user_cache() -> Path:
    return Path(os.environ.get("RFT_CACHE") or "~/.cache/rft").expanduser() / "scores.sqlite"


def score_with(evaluator: Evaluator, stack: ExitStack, **surroundings: Any) -> ScoringRunner:
    """The evaluator at work, until the stack is left; `surroundings` as for `ScoringRunner`."""
    runner = ScoringRunner(evaluator, **surroundings)
    background.run(runner.setup())
    stack.callback(lambda: background.run(runner.close()))
    return runner


def _name_base(recipe: Recipe, judges: Sequence[WantsBase]) -> None:
    if judges and recipe.model.adapter is None:
        raise UserError(
            "evaluator: a judge on engine: base needs weights that stay as they are, and full fine-tuning "
            "changes all of them; train an adapter (model.adapter), or give the judge url and model of an "
            "endpoint"
        )
    for judge in judges:
        judge.base_model = recipe.model.source


def _listen(recipe: Recipe, view: View, stack: ExitStack) -> Any:
    """The endpoint's socket, taken before anything slow: a port in use should cost a second."""
    if recipe.serve is None:
        return None
    from rft.serve.server import listen

    sock = listen(recipe.serve, view.note)
    stack.callback(sock.close)
    return sock


def _for_serving(recipe: Recipe) -> EngineSpec:
    """The engine's section, with what a served reasoning model needs; a wrong parser shows here."""
    if recipe.serve is None:
        return recipe.engine
    from rft.serve.app import check

    check(recipe.serve)
    if recipe.serve.reasoning_parser is None:
        return recipe.engine
    args = {"reasoning_parser": recipe.serve.reasoning_parser, **recipe.engine.args}
    return recipe.engine.model_copy(update={"args": args})


def _serve(recipe: Recipe, engine: VLLMEngine, sock: Any, view: View, stack: ExitStack) -> None:
    from rft.serve.app import build
    from rft.serve.server import Server

    spec = recipe.serve
    assert spec is not None
    server = Server(
        lambda: build(engine, spec, recipe.name, chat_template=_path(recipe.model.chat_template)), sock
    )
    server.start()
    stack.callback(server.stop)
    view.note(f"serving {spec.model_name or recipe.name} on {server.url}/v1")


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _require_known_sampling(recipe: Recipe) -> None:
    from rft.engine.vllm import vllm_params

    spec = recipe.rollout
    try:
        vllm_params(sampling_for(spec, spec.max_new_tokens, recipe.seed, spec.temperature))
    except ValueError as error:
        raise UserError(f"rollout: {error}") from error


def _require_room(recipe: Recipe, folder: Path, dtype: str, engine_dtype: str) -> None:
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


def _reference(recipe: Recipe, folder: Path, dtype: str, device: str) -> Any:
    """The frozen starting model for a KL term; an adapter's base serves as its own."""
    if recipe.algorithm.beta == 0.0 or recipe.model.adapter is not None:
        return None
    from rft.models.policy import Policy

    return Policy.load(recipe.model, folder, dtype=dtype, device=device).model.requires_grad_(False).eval()


def context_limit(recipe: Recipe, folder: Path) -> int:
    """Tokens a sequence may have at most, by the model or the recipe."""
    longest = _model_limit(recipe, folder)
    return min(longest, recipe.rollout.max_total_tokens or longest)


def _model_limit(recipe: Recipe, folder: Path) -> int:
    own = int(getattr(_text_config(recipe, folder), "max_position_embeddings", 1 << 20))
    return min(own, recipe.engine.max_model_len or own)


def _engine_context(recipe: Recipe, folder: Path, context: int, limit: int, *, judged: bool) -> int:
    """Tokens the engine takes in one request: `context` for rollouts, more for clients and judges."""
    longest = max(context, min(limit, _SERVED_CONTEXT)) if recipe.serve else context
    if judged:  # by a judge that may be shown a whole group
        members = max(recipe.rollout.group_size, recipe.eval.samples)
        asked = context + members * recipe.rollout.max_new_tokens + _JUDGED_CONTEXT
        longest = max(longest, min(_model_limit(recipe, folder), asked))
    return longest


def _text_config(recipe: Recipe, folder: Path) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=recipe.model.trust_remote_code)
    return config.get_text_config()


def _fitting(
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


def conversation_tokens(recipe: Recipe, longest_prompt: int, limit: int) -> int:
    """Tokens that a prompt and all that follows it may need, at most `limit`."""
    spec = recipe.rollout
    if recipe.environment.use == "single_turn":
        return min(longest_prompt + spec.max_new_tokens, limit)
    # Every turn may be answered at length.
    return min(longest_prompt + spec.max_turns * (2 * spec.max_new_tokens), limit)


def _sequences(recipe: Recipe) -> int:
    """Requests decoded together: a whole step, and some more for those who ask over HTTP."""
    step = recipe.train.prompts_per_step * recipe.rollout.group_size
    return min(max(step, 32), _MOST_SEQUENCES) + (16 if recipe.serve else 0)
