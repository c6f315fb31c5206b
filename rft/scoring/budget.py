"""What a run's evaluations will cost, before it spends it: a mean cost times what is still to do.

The mean is that of golden cases or of the first calls. A budget that would end in the middle of a run is
better refused at its start, with the sum in the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from rft.recipe.schema import Recipe


def evaluations_left(recipe: Recipe, step: int) -> int:
    """Evaluations to do after so many steps: of rollouts, and of held-out answers each time they are due."""
    steps, every = recipe.train.steps, recipe.eval.every
    rollouts = (steps - step) * recipe.train.prompts_per_step * recipe.rollout.group_size
    held_out = (step == 0) + (steps // every - step // every if every else 0)
    held_out += not every or steps % every != 0
    return rollouts + held_out * recipe.eval.tasks * recipe.eval.samples


@dataclass(frozen=True)
class Projection:
    """What the rest of a run will cost.

    >>> print(Projection(spent_usd=0.02, evaluations=10, left=6400, max_usd=10.0))
    6,400 evaluations at 0.0020 USD (the mean of 10) cost 12.80 USD, 12.82 with those: over the 10 allowed
    """

    spent_usd: float
    """In all."""
    evaluations: int
    """Those that cost `spent_usd`."""
    left: int
    """Evaluations still to do."""
    max_usd: float | None

    @property
    def mean_usd(self) -> float:
        """Dollars an evaluation."""
        return self.spent_usd / self.evaluations if self.evaluations else 0.0

    @property
    def total_usd(self) -> float:
        """Dollars when all is done."""
        return self.spent_usd + self.left * self.mean_usd

    @property
    def fits(self) -> bool:
        """Whether the budget is enough, as far as can be told."""
        return self.max_usd is None or self.total_usd <= self.max_usd

    def __str__(self) -> str:
        verdict = "" if self.fits else f": over the {self.max_usd:g} allowed"
        return (
            f"{self.left:,} evaluations at {self.mean_usd:.4f} USD (the mean of {self.evaluations:,}) cost "
            f"{self.left * self.mean_usd:.2f} USD, {self.total_usd:.2f} with those{verdict}"
        )
