"""Several evaluators weighed into one score, without letting a failed one count as zero.

    evaluator:
      use: weighted
      with:
        correct: {use: exact}
        brief: {use: length, with: {max: 20}, weight: 0.2}
        tone: {use: ./tone.py:polite, weight: 0.5, optional: true}

An optional part without a number is left out, and left out for the *whole group*, since advantages compare
members: an answer must not win because its tone could not be judged.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from rft.evaluator import Evaluator
from rft.scoring.composite import Composite, Part, Parts, left_out, turns_together
from rft.types import Score

__all__ = ["NormalizeThenSum", "Part", "Product", "Weighted"]

_NOTHING = "no part with a weight could be judged"


class Weighted(Composite):
    """The weighted mean of its parts: sum of w_i * v_i over sum of |w_i|.

    Dividing keeps the score within the range of the parts, also when a part is left out.

        Weighted(correct=Exact(), brief=Part(Length(max=20), weight=0.2))
    """

    def __init__(self, **parts: Part | Evaluator) -> None:
        super().__init__(parts)
        _weights_needed(self)
        ends = [
            end if part.weight > 0 else -end
            for part in self.parts.values()
            if part.weight != 0
            for end in part.evaluator.range
        ]
        self.range = (min(ends), max(ends))

    def combine(self, parts_G: Sequence[Parts]) -> list[Score]:
        """The weighted means, without the parts that some member lacks."""
        weights = _counted(self.parts, parts_G)
        total = sum(map(abs, weights.values()))
        if total == 0:
            return [Score.skip(_NOTHING)] * len(parts_G)
        low, high = self.range
        return [
            # Rounding may overstep by a last digit.
            Score(
                min(max(_sum(parts, weights) / total, low), high),
                reason=_told(parts, weights),
                turn_values=turns_together(parts, {name: weights[name] / total for name in weights}),
            )
            for parts in parts_G
        ]


class NormalizeThenSum(Composite):
    """The weighted sum of its parts, each made 0 on average and 1 in spread within the group first.

    For parts on different scales: without it, the part that varies most decides the group whatever the
    weights say (as in GDPO, arXiv 2601.05242). A part that is the same for all members adds nothing.
    """

    relative = True
    range = (-math.inf, math.inf)

    def __init__(self, **parts: Part | Evaluator) -> None:
        super().__init__(parts)
        _weights_needed(self)

    def combine(self, parts_G: Sequence[Parts]) -> list[Score]:
        """The weighted sums, without the parts that some member lacks. Needs two members."""
        weights = _counted(self.parts, parts_G)
        if not any(weights.values()) or len(parts_G) < 2:
            why = _NOTHING if len(parts_G) > 1 else "there was nobody to compare with"
            return [Score.skip(why)] * len(parts_G)
        scales = {name: _scale([float(parts[name]) for parts in parts_G]) for name in weights}
        return [
            Score(
                sum(
                    weight * (float(parts[name]) - scales[name][0]) / scales[name][1]
                    for name, weight in weights.items()
                ),
                reason=_told(parts, weights),
                turn_values=turns_together(
                    parts, {name: weights[name] / scales[name][1] for name in weights}
                ),
            )
            for parts in parts_G
        ]


class Product(Composite):
    """The product of its parts: one that is 0 makes the whole 0. Weights have no meaning here.

    It passes on no values for turns: what a turn earns of a product depends on all the other turns.
    """

    def __init__(self, **parts: Part | Evaluator) -> None:
        super().__init__(parts)
        if weighted := [name for name, part in self.parts.items() if part.weight != 1.0]:
            raise TypeError(f"Product takes no weights, and {weighted[0]} has one; use Weighted")
        # One that may be left out may count as 1.
        ends = [(*p.evaluator.range, 1.0) if p.optional else p.evaluator.range for p in self.parts.values()]
        corners = [math.prod(corner) for corner in itertools.product(*ends)]
        self.range = (min(corners), max(corners))

    def combine(self, parts_G: Sequence[Parts]) -> list[Score]:
        """The products, without the parts that some member lacks."""
        weights = _counted(self.parts, parts_G)
        if not weights:
            return [Score.skip("no part could be judged")] * len(parts_G)
        return [
            Score(math.prod(float(parts[name]) for name in weights), reason=_told(parts, weights))
            for parts in parts_G
        ]


def _weights_needed(composite: Composite) -> None:
    if not any(part.weight for part in composite.parts.values()):
        raise TypeError(f"{composite.name} needs at least one part whose weight is not 0")


def _counted(own: Mapping[str, Part], parts_G: Sequence[Parts]) -> dict[str, float]:
    """The weights of the parts that count in this group."""
    without = left_out(parts_G)
    return {name: part.weight for name, part in own.items() if name not in without}


def _sum(parts: Parts, weights: Mapping[str, float]) -> float:
    return sum(weight * float(parts[name]) for name, weight in weights.items())


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation; 1 for the latter when all are (nearly) the same."""
    deviation = statistics.pstdev(values)
    return statistics.fmean(values), deviation if deviation > 1e-9 else 1.0


def _told(parts: Parts, weights: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {float(score):.3g}" if name in weights else f"{name} left out"
        for name, score in parts.items()
    )
