"""The page of learning from examples: SFT, DPO and KTO, top to bottom.

    examples -> optimizer steps (TRL's trainer) -> weights -> held-out answers, scored

No rollouts are trained on. Everything else is as on the page of `train.py`: the same recipe, run folder,
engine and checkpoints, and the same held-out tasks, answered by the engine and scored by the evaluator
before, during and after.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from rft import background
from rft.around import Clock, due, go_on, judge, prove_bond, status, write_down
from rft.assemble import Parts, assemble
from rft.bad_steps import not_applied
from rft.begin import begin
from rft.engine.base import Published
from rft.engine.open import prepare_process
from rft.evaluator import Evaluator
from rft.examples import reference_model
from rft.heldout import Judged, summarise
from rft.process import rss_gb
from rft.recipe.schema import Examples, Recipe
from rft.runs.folder import RunFolder
from rft.runs.quiet import Quiet
from rft.runs.signals import StopRequest
from rft.runs.summary import Summary
from rft.runs.trackers import Trackers
from rft.runs.view import View

if TYPE_CHECKING:
    from rft.fork import Origin
    from rft.learn.preference import Taught

_NAMES = {
    # TRL's names, and ours in rft/runs/metrics.py.
    "entropy": "entropy",
    "mean_token_accuracy": "examples/token_accuracy",
    "rewards/accuracies": "examples/accuracy",
    "rewards/margins": "examples/margin",
    "rewards/chosen": "examples/good",
    "rewards/rejected": "examples/bad",
    "logps/chosen": "examples/good_logprob",
    "logps/rejected": "examples/bad_logprob",
    "kl": "kl/reference",
}


def train_offline(
    recipe: Recipe,
    *,
    view: View,
    resume: RunFolder | None = None,
    fork: Origin | None = None,
    accept_evaluator_change: bool = False,
    debug: bool = False,
) -> Summary:
    """Trains on the examples of `data.train` until `recipe.train.steps` or a stop signal.

    Arguments and exceptions are those of `rft.train.train`.
    """
    started = time.perf_counter()
    kind, rows, steps = recipe.algorithm.examples, recipe.train.prompts_per_step, recipe.train.steps
    assert kind is not None
    run, progress = begin(recipe, resume, fork, view.note)

    def admit(evaluator: Evaluator) -> None:
        progress.admit(run, recipe, evaluator, accept_change=accept_evaluator_change, note=view.note)
        prepare_process()  # before torch is imported
        from rft.learn.preference import require_known_args

        require_known_args(kind, recipe.algorithm.args)

    with (
        view,
        status(run, recipe.train.steps, progress),
        Quiet(run.log_path, debug=debug),
        StopRequest(view.note) as stop,
        Trackers(recipe, run, view.note) as trackers,
        assemble(recipe, view, run, weights_from=progress.checkpoint, admit=admit) as parts,
        progress,  # its end waits for a checkpoint that is still being written
    ):
        from rft.learn.preference import teach

        progress.restore(parts, view.note)
        parts.weights.publish(progress.step)
        view.done = progress.step
        background.run(parts.supervisor.begin(progress.step))
        judged = Judged.stored(run)
        judged = judged or [judge(parts, run, view, progress.step, "before")]
        parts.supervisor.afford(progress.step)
        clock = Clock()

        def after_step(taught: Taught) -> bool:
            """Publishes, judges, writes down and saves; returns whether training goes on."""
            nonlocal clock
            parts.memory.settle()
            clock.lap("update")

            # 2 the same weights answer the held-out tasks, and serve
            view.phase("publish")
            published = parts.weights.publish(progress.step + 1)
            clock.lap("publish")

            # 3 write down, judge, save
            progress.step += 1
            parts.order.take(rows)
            metrics = step_metrics(taught, published, clock.seconds)
            parity, broken = prove_bond(parts, view, progress.step)
            health, trouble = background.run(parts.supervisor.after(progress.step, []))
            metrics |= parity | health | progress.metrics()
            trouble = after_taught(parts, run, view, progress.step, taught) or trouble or broken
            last = progress.step == steps or stop.requested or trouble is not None
            if (last and trouble is None) or due(recipe.eval.every, progress.step):
                judged.append(judge(parts, run, view, progress.step, f"step {progress.step}"))
                metrics |= judged[-1].metrics()
            write_down(parts, run, view, progress, trackers, metrics, last=last, trouble=trouble)
            if stop.requested and progress.step < steps:
                view.note(f"stopped after step {progress.step} of {steps}; {go_on(run)}")
            clock = Clock()
            view.phase("update")
            return not last

        # 1 optimizer steps; shared weights are written while the engine holds still
        if progress.step < steps:
            view.phase("update")
            teach(
                parts.policy.model,
                parts.policy.tokenizer,
                parts.order.ahead((steps - progress.step) * rows),
                kind=kind,
                args=recipe.algorithm.args,
                optimizer=parts.updater.optimizer,
                reference=reference_model(recipe, parts.policy),
                rows=rows,
                rows_at_once=rows_at_once(parts, kind),
                seed=recipe.seed,
                first_step=progress.step,
                folder=run.log_path.parent,
                writing=partial(progress.writing, parts),
                after_step=after_step,
            )
    summary = summarise(run, progress.step, time.perf_counter() - started, judged[0], judged[-1])
    run.write_report(summary.to_markdown())
    return summary


# --- below the page: what its words mean, no decisions ------------------------------------------------


def rows_at_once(parts: Parts, kind: Examples) -> int:
    """Rows of one forward pass, by the longest of all examples: the same wherever a run goes on."""
    from rft.learn.preference import example_tokens, rows_per_pass

    order, train = parts.order, parts.recipe.train
    longest = max(example_tokens(parts.policy.tokenizer, order.task(n), kind) for n in range(len(order)))
    return rows_per_pass(kind, train.prompts_per_step, longest, train.micro_batch_tokens)


def after_taught(parts: Parts, run: RunFolder, view: View, step: int, taught: Taught) -> str | None:
    """Tells of a step that was not applied; why the run must stop, if it must."""
    done = taught.optimizer
    if done.applied:
        return None
    return not_applied(parts, run, view, step, taught.loss, done.grad_norm, None)


def step_metrics(taught: Taught, published: Published, seconds: Mapping[str, float]) -> dict[str, float]:
    """One step's numbers under the names that `rft/runs/metrics.py` explains."""
    metrics = {
        "loss": taught.loss,
        "grad_norm": taught.optimizer.grad_norm,
        "learning_rate": taught.optimizer.learning_rate,
        "update/steps": taught.optimizer.applied,
        "update/skipped": not taught.optimizer.applied,
        "memory/rss_gb": rss_gb(),
        "weight_version": published.version,
        "time/publish_s": published.seconds,
        **{f"time/{phase}_s": value for phase, value in seconds.items()},
        **{ours: taught.logs[theirs] for theirs, ours in _NAMES.items() if theirs in taught.logs},
    }
    return {key: float(value) for key, value in metrics.items() if not math.isnan(value)}
