"""The reference occurs somewhere in the answer."""

from __future__ import annotations

import bisect
import math
import re

from pydantic import BaseModel, ConfigDict, Field

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import accepted
from rft.types import Rollout, Score

_SEPARATOR = re.compile(r"[,;|\n]+|\b(?:or|and)\b|(?<=\d)\s+(?=[-+]?\d)", re.IGNORECASE)
_LONG_ITEM = 3  # words


class Includes(Evaluator):
    """1 when the reference (one of a list; with `all`, each) occurs in the answer as whole words, else 0.

    A model learns to list every candidate when nothing else counts. So the reference is not found as one of
    `max_listed` or more items in a row: numbers, or pieces of at most three words, with nothing between them
    but commas, semicolons, bars, line breaks, "or" and "and". None allows lists.

    Cannot see: negation ("it is not Paris"), or candidates that are spread over sentences; weigh in a length
    limit.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        ignore_case: bool = True
        whole_words: bool = True
        """"4" is not found in "14"."""
        all: bool = False
        max_listed: int | None = Field(5, ge=2)

    name = "includes"
    requires = frozenset({"reference"})
    blind_to = frozenset({"every_option", "every_integer", "negated", "contradiction"})
    cases = (
        Case("Capital of France?", "It is paris, of course.", expect=1.0, reference="Paris"),
        Case("Capital of France?", "Lyon", expect=0.0, reference="Paris"),
        Case("2+2?", "14", expect=0.0, reference="4"),
        Case("2+2?", "14", expect=1.0, reference="4", config={"whole_words": False}),
        Case("2+2?", "14, no: 4", expect=1.0, reference=4),
        Case("Primary colours?", "red and blue", expect=1.0, reference=["red", "green"]),
        Case(
            "Primary colours?", "red and blue", expect=0.0, reference=["red", "green"], config={"all": True}
        ),
        Case("2+2?", " ".join(map(str, range(100))), expect=0.0, reference="4"),
        Case("Capital of France?", "Rome, Berlin, Paris, Madrid or Oslo", expect=0.0, reference="Paris"),
        Case("Capital of France?", "Rome\nBerlin\nParis\nMadrid\nOslo", expect=0.0, reference="Paris"),
        Case(
            "Capital of France?",
            "Rome, Berlin, Oslo, Madrid, no: the capital of France is Paris",
            1.0,
            "Paris",
        ),
        Case(
            "Capital of France?",
            "Rome, Berlin, Paris, Madrid or Oslo",
            expect=1.0,
            reference="Paris",
            config={"max_listed": None},
        ),
        Case("2+2?", "4", expect="unscored", reference=""),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        wanted = [self._plain(one) for one in accepted(rollout.task.reference)]
        if not all(wanted):
            return Score.skip("the reference is empty: every answer would include it")
        text = self._plain(rollout.text)
        missing = [one for one in wanted if not self._occurs(one, text)]
        right = not missing if self.config.all else len(missing) < len(wanted)
        return Score(1.0) if right else Score(0.0, reason=f"without {', '.join(map(repr, missing))[:200]}")

    def _plain(self, text: str) -> str:
        return text.casefold() if self.config.ignore_case else text

    def _occurs(self, wanted: str, text: str) -> bool:
        lists = _lists(text, self.config.max_listed) if self.config.max_listed else []
        start = text.find(wanted)
        while start >= 0:
            end = start + len(wanted)
            inside_word = (text[start - 1 : start].isalnum() and wanted[0].isalnum()) or (
                text[end : end + 1].isalnum() and wanted[-1].isalnum()
            )
            if not _within(start, lists) and not (self.config.whole_words and inside_word):
                return True
            start = text.find(wanted, start + 1)
        return False


def _lists(text: str, least: int) -> list[tuple[int, int]]:
    """Where runs of at least `least` short items start and end. Empty pieces neither count nor end a run."""
    edges = [0, *(edge for match in _SEPARATOR.finditer(text) for edge in match.span()), len(text)]
    runs: list[tuple[int, int]] = []
    items, begin = 0, 0
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        words = len(text[start:end].split())
        if words > _LONG_ITEM:
            items = 0
        elif words:
            begin = start if items == 0 else begin
            items += 1
        if items >= least and words <= _LONG_ITEM:
            if runs and runs[-1][0] == begin:
                runs.pop()
            runs.append((begin, end))
    return runs


def _within(place: int, runs: list[tuple[int, int]]) -> bool:
    index = bisect.bisect(runs, (place, math.inf)) - 1
    return index >= 0 and place < runs[index][1]
