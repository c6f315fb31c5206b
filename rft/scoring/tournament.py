"""Comparisons of two at a time become one score each: the share of points won.

Judges favour a place, so each pair is asked in both orders. Where the orders disagree on the winner nobody
won: the pair is a tie, and counted. Everything here is deterministic, so that a group's scores depend on the
judge alone.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rft.evaluator import PairwiseEvaluator
from rft.types import Cost, Rollout, Score

Ask = Callable[[Rollout, Rollout], Awaitable[Score]]
"""How much the first is better, 0 to 1, with all retries made. Never raises."""


@dataclass
class _Record:
    """What one member has won so far."""

    points: float = 0.0
    games: int = 0
    sat_out: int = 0
    """Rounds without an opponent, worth half a point."""
    disagreements: int = 0
    first_bias: float = 0.0
    cost: Cost = Cost()
    attempts: int = 1

    def score(self) -> Score:
        """The share of points, with what the judge's places had to do with it."""
        if not self.games:
            return Score.skip("there was nobody to compare with")
        rounds = self.games + self.sat_out
        metrics = {
            "disagreement": self.disagreements / self.games,
            "first_bias": self.first_bias / self.games,
        }
        return Score(self.points / rounds, reason=f"{self.points:.3g} of {rounds} points", metrics=metrics)


class _Lost(Exception):
    """A comparison could not be made."""

    def __init__(self, score: Score) -> None:
        self.score = score


async def play(evaluator: PairwiseEvaluator, members: Sequence[Rollout], ask: Ask) -> list[Score]:
    """One score for each member: the share of its points, 0 to 1, under the evaluator's `schedule`.

    Metrics: `disagreement`, the share of its pairs whose two orders named different winners, and
    `first_bias`, how much the judge favoured whichever of the two came first, -1 to 1.

    A comparison that cannot be made ends it: all members get that failure. Raises what `baseline` raises.
    """
    records = [_Record() for _ in members]
    try:
        if evaluator.schedule == "swiss":
            await _swiss(members, records, ask)
        else:
            await _at_once(_pairs(evaluator, members, records), ask)
        scores = [record.score() for record in records]
    except* _Lost as lost:
        scores = [_first(lost)] * len(members)
    return [
        score.stamped(cost=record.cost, attempts=record.attempts)
        for score, record in zip(scores, records, strict=True)
    ]


_Seat = tuple[Rollout, _Record]


def _pairs(
    evaluator: PairwiseEvaluator, members: Sequence[Rollout], records: Sequence[_Record]
) -> list[tuple[_Seat, _Seat]]:
    seats = list(zip(members, records, strict=True))
    if evaluator.schedule == "baseline":
        other = evaluator.baseline(members)
        return [(seat, (other, _Record())) for seat in seats]
    return list(itertools.combinations(seats, 2))


async def _swiss(members: Sequence[Rollout], records: Sequence[_Record], ask: Ask) -> None:
    """Rounds among neighbours in the standings, so that few comparisons tell close answers apart."""
    met: set[frozenset[int]] = set()
    for _ in range(math.ceil(math.log2(len(members)))):
        # Ties stand in the order of their numbers.
        standing = sorted(range(len(members)), key=lambda one: -records[one].points)
        out, pairs = _round(standing, {one for one in standing if records[one].sat_out}, met)
        if out is not None:
            records[out].sat_out += 1
            records[out].points += 0.5
        met |= set(map(frozenset, pairs))
        seats = list(zip(members, records, strict=True))
        await _at_once([(seats[one], seats[other]) for one, other in pairs], ask)


def _round(
    standing: Sequence[int], sat_out: set[int], met: set[frozenset[int]]
) -> tuple[int | None, list[tuple[int, int]]]:
    """Who sits out, the last if it has not yet, and who meets whom; nobody twice, where that is possible."""
    if len(standing) % 2 == 0:
        return None, _pairing(standing, met) or _pairing(standing, set()) or []
    outs = [one for one in reversed(standing) if one not in sat_out]
    for out in outs:
        if pairs := _pairing([one for one in standing if one != out], met):
            return out, pairs
    return outs[0], _pairing([one for one in standing if one != outs[0]], set()) or []


def _pairing(standing: Sequence[int], met: set[frozenset[int]]) -> list[tuple[int, int]] | None:
    """Neighbours in the standings, as far as they have not met; None when that leaves somebody alone."""
    if not standing:
        return []
    one, *rest = standing
    for other in rest:
        if frozenset((one, other)) not in met:
            others = _pairing([two for two in rest if two != other], met)
            if others is not None:
                return [(one, other), *others]
    return None


async def _at_once(pairs: Sequence[tuple[_Seat, _Seat]], ask: Ask) -> None:
    async with asyncio.TaskGroup() as together:
        for pair in pairs:
            together.create_task(_meet(*pair, ask))


async def _meet(one: _Seat, other: _Seat, ask: Ask) -> None:
    (first, record), (second, against) = one, other
    forth, back = await asyncio.gather(ask(first, second), ask(second, first))
    record.cost += forth.cost + back.cost
    for score in (forth, back):
        record.attempts = max(record.attempts, score.attempts)
        against.attempts = max(against.attempts, score.attempts)
        if score.value is None:
            raise _Lost(score)
    forward, backward = float(forth), float(back)
    # Each order names a winner; both naming the first, or both the second, is no verdict.
    disagree = (forward - 0.5) * (backward - 0.5) > 0
    points = 0.5 if disagree else (forward + 1 - backward) / 2
    for player, won in ((record, points), (against, 1 - points)):
        player.games += 1
        player.points += won
        player.disagreements += disagree
        player.first_bias += forward + backward - 1


def _first(lost: BaseExceptionGroup[_Lost]) -> Score:
    found = lost.exceptions[0]
    return found.score if isinstance(found, _Lost) else _first(found)
