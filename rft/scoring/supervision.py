"""An evaluator during a run: what is watched from step to step, and when the run should stop for its sake.

Three voices: golden cases scored again say whether the instrument works, failure counts whether it works on
these rollouts, the budget whether it can be paid to the end. Where the second complains, the first is asked,
so that the message says which of the two to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rft.errors import UserError
from rft.recipe.schema import Recipe
from rft.scoring.budget import Projection, evaluations_left
from rft.scoring.canaries import Canaries, Round
from rft.scoring.events import in_words
from rft.scoring.health import FailureWatch
from rft.scoring.runner import ScoringRunner
from rft.scoring.selective import SelectiveFailure
from rft.types import Group


def reporter(
    event: Callable[..., None], note: Callable[[str], None]
) -> Callable[[str, dict[str, Any]], None]:
    """A runner's `on_event` that keeps what an operator may want to read later, and shows it now."""

    def tell(name: str, fields: dict[str, Any]) -> None:
        text = in_words(name, fields)
        if text is not None:
            event(name, **fields)
            note(text)

    return tell


class Supervisor:
    """Watches one run's evaluator.

    Args:
        event: keeps what happened: a name, and fields as keywords.
        note: shows a line to whoever watches.
        spent_usd: by the run before this process went on with it.
    """

    def __init__(
        self,
        runner: ScoringRunner,
        recipe: Recipe,
        *,
        event: Callable[..., None],
        note: Callable[[str], None],
        spent_usd: float = 0.0,
    ) -> None:
        train = recipe.train
        self._runner = runner
        self._recipe = recipe
        self._spec = recipe.scoring
        self._watch = FailureWatch(train.max_failure_rate, train.max_bugs, min_groups=train.min_groups)
        self._event = event
        self._note = note
        self._selective = SelectiveFailure()
        self._canaries = Canaries(runner)
        self._spent_usd = spent_usd
        self._paused_s = 0.0
        self._bad_rounds = 0
        self._evaluations = 0
        self._over_budget = False

    async def begin(self, step: int) -> None:
        """Before anything is generated: do golden cases hold, and can the run be afforded?

        Raises UserError when it cannot.
        """
        if len(self._canaries):
            await self._golden(step)
            self.afford(step)

    def afford(self, step: int) -> None:
        """Raises UserError when the evaluations that are left will cost more than the budget has."""
        projection = self._projection(step)
        if projection.mean_usd:
            self._event("budget_projected", text=str(projection), total_usd=projection.total_usd)
        if not projection.fits:
            raise UserError(
                f"evaluator {self._runner.name}: {projection}; raise scoring.max_usd (or the evaluator's "
                "limits), or lower train.steps, train.prompts_per_step, rollout.group_size or eval.tasks"
            )

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain JSON values."""
        return {"watch": self._watch.state(), "selective": self._selective.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on watching where `state` was taken."""
        self._watch.restore(state["watch"])
        self._selective.restore(state["selective"])

    def saw(self, groups: Sequence[Group]) -> None:
        """Takes note of evaluations that no step is judged by, held-out ones."""
        self._evaluations += sum(len(group.scores) for group in groups)

    async def after(self, step: int, groups: Sequence[Group]) -> tuple[dict[str, float], str | None]:
        """What a step's scores say: metrics, and why the run should stop, if it should.

        Args:
            step: completed steps.
        """
        self.saw(groups)
        for group in groups:
            for rollout, score in zip(group.rollouts, group.scores, strict=True):
                self._watch.record(score)
                self._selective.record(rollout, score)
        share, least = self._recipe.rollout.min_valid, self._recipe.algorithm.min_members
        self._watch.record_groups([group.has_enough(share, least) for group in groups])
        metrics = self._selective.metrics()
        metrics["cost/usd"] = self._spent_usd + self._runner.cost.usd
        metrics["time/paused_s"] = self._runner.paused_s - self._paused_s
        self._paused_s = self._runner.paused_s
        for alarm in self._selective.alarms():
            self._event("selective_failure", step=step, text=alarm)
            self._note(f"step {step}: {alarm}")
        self._warn_of_budget(step)
        trouble = self._watch.reason()
        due = self._spec.canaries_every > 0 and step % self._spec.canaries_every == 0
        if len(self._canaries) and (due or trouble):
            found = await self._golden(step)
            metrics |= {"golden/held": found.held / found.total, "golden/drifted": len(found.drifted)}
            trouble = self._explained(trouble, found)
        return metrics, trouble

    async def _golden(self, step: int) -> Round:
        found = await self._canaries.score()
        self._evaluations += found.evaluations
        self._bad_rounds = 0 if found.all_held else self._bad_rounds + 1
        if not found.all_held:
            self._event("golden_cases", step=step, failed=list(found.failed), drifted=list(found.drifted))
            self._note(f"step {step}: {found}")
        return found

    def _explained(self, trouble: str | None, found: Round) -> str | None:
        if trouble is not None:
            verdict = (
                "so look at the rollouts rather than at the evaluator"
                if found.all_held
                else "it is the evaluator"
            )
            return f"{trouble}; {found}: {verdict}"
        if self._bad_rounds >= self._spec.canaries_bad:
            what = "has drifted" if found.drifted else "is broken"
            return (
                f"the evaluator {what}: {found}, for the {self._bad_rounds}. time running "
                f"(scoring.canaries_bad allows {self._spec.canaries_bad - 1})"
            )
        return None

    def _projection(self, step: int) -> Projection:
        left = evaluations_left(self._recipe, step)
        return Projection(self._runner.cost.usd, self._evaluations, left, self._runner.max_usd)

    def _warn_of_budget(self, step: int) -> None:
        projection = self._projection(step)
        if not projection.fits and not self._over_budget:
            self._event("budget_projected", step=step, text=str(projection), total_usd=projection.total_usd)
            self._note(f"step {step}: the budget will not last: {projection}")
        self._over_budget = not projection.fits
