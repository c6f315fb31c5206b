"""THE PAGE: the whole algorithm, top to bottom.

    tasks -> rollouts (engine + environment) -> scores (evaluator) -> advantages -> update -> weights -> tasks

P prompts become P groups of G rollouts; scores become advantages relative to the group; clipped passes
change the policy; the engine samples the next step with the same weights. What each step decides stands
in its own room: rollout/, scoring/, learn/, engine/, runs/; what surrounds a step, in `around.py`.
"""

from __future__ import annotations

import time
from functools import partial

from rft import background
from rft.around import Clock, due, go_on, judge, prove_bond, status, write_down
from rft.assemble import assemble
from rft.bad_steps import after_update
from rft.begin import begin
from rft.fork import Origin
from rft.heldout import Judged, summarise
from rft.recipe.schema import Recipe
from rft.runs.folder import RunFolder
from rft.runs.quiet import Quiet
from rft.runs.signals import StopRequest
from rft.runs.summary import Summary
from rft.runs.trackers import Trackers
from rft.runs.view import View


def train(
    recipe: Recipe,
    *,
    view: View,
    resume: RunFolder | None = None,
    fork: Origin | None = None,
    accept_evaluator_change: bool = False,
    debug: bool = False,
) -> Summary:
    """Trains until `recipe.train.steps`, a stop signal, or too many failed evaluations.

    Args:
        view: shows progress; entered and left here.
        resume: a run to go on with, from its newest sound checkpoint.
        fork: another run's checkpoint, to begin a new run from.
        accept_evaluator_change: go on although the evaluator is another one than before.
        debug: leave the libraries' output on the terminal.

    Raises UserError for wrong input, RunStopped when the run stopped itself (after a checkpoint).
    """
    started = time.perf_counter()
    run, progress = begin(recipe, resume, fork, view.note)
    with (
        view,
        status(run, recipe.train.steps, progress),
        Quiet(run.log_path, debug=debug),
        StopRequest(view.note) as stop,
        Trackers(recipe, run, view.note) as trackers,
        assemble(
            recipe,
            view,
            run,
            weights_from=progress.checkpoint,
            admit=partial(progress.admit, run, recipe, accept_change=accept_evaluator_change, note=view.note),
        ) as parts,
        progress,  # its end waits for a checkpoint that is still being written
    ):
        # torch is imported with the parts, after the process is prepared for it
        from rft.learn.batch import to_batch
        from rft.learn.credit import assign_credit
        from rft.steplog import heldout_metrics, step_metrics

        progress.restore(parts, view.note)
        parts.weights.publish(progress.step)
        view.done = progress.step
        background.run(parts.supervisor.begin(progress.step))
        judged = Judged.stored(run)
        judged = judged or [judge(parts, run, view, progress.step, "before")]
        parts.supervisor.afford(progress.step)
        for step in range(progress.step, recipe.train.steps):
            clock = Clock()

            # 1 roll out and score, overlapped
            view.phase("rollout")
            supplied = parts.supply.step(step)
            clock.lap("rollout")

            # 2 tokens and masks, in one place
            view.phase("update")
            batch = to_batch(
                supplied.groups,
                mask_truncated=recipe.rollout.truncated == "mask",
                min_valid=recipe.rollout.min_valid,
                min_members=recipe.algorithm.min_members,
                keep_constant=recipe.algorithm.trains_constant,
            )

            # 3 credit: what each token did better than expected
            batch = parts.updater.measure(batch)
            batch = assign_credit(batch, recipe.algorithm, parts.credit)

            # 4 clipped passes; shared weights are written while the engine holds still
            stats = parts.updater.update(batch, writing=partial(progress.writing, parts, step + 1))
            parts.memory.settle()
            clock.lap("update")

            # 5 the same weights sample the next step, and serve
            view.phase("publish")
            parts.supply.wait()
            published = parts.weights.publish(step + 1)
            clock.lap("publish")

            # 6 write down, judge, save
            progress.step = step + 1
            metrics = step_metrics(supplied, batch, stats, published, clock.seconds)
            parity, broken = prove_bond(parts, view, progress.step)
            health, trouble = background.run(parts.supervisor.after(progress.step, supplied.played))
            metrics |= parity | health | progress.metrics()
            trouble = after_update(parts, run, view, progress.step, batch, stats) or trouble or broken
            run.write_rollouts(progress.step, supplied.played)
            last = progress.step == recipe.train.steps or stop.requested or trouble is not None
            if (last and trouble is None) or due(recipe.eval.every, progress.step):
                judged.append(judge(parts, run, view, progress.step, f"step {progress.step}"))
                metrics |= heldout_metrics(judged[-1], [*run.metrics(), metrics])
            write_down(parts, run, view, progress, trackers, metrics, last=last, trouble=trouble)
            if stop.requested and progress.step < recipe.train.steps:
                view.note(f"stopped after step {progress.step} of {recipe.train.steps}; {go_on(run)}")
                break
    summary = summarise(run, progress.step, time.perf_counter() - started, judged[0], judged[-1])
    run.write_report(summary.to_markdown())
    return summary
