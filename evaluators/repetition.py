"""Does the answer go round in circles: the share of its runs of words that are new."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

from rft.evaluator import Case, Evaluator
from rft.types import Rollout, Score

_TOKEN = re.compile(r"\w{1,12}|[^\w\s]")


class Repetition(Evaluator):
    """Different runs of `n` words over all runs of `n` words: 1 when none repeats, near 0 in a loop.

    Punctuation marks are words of their own, and a word is cut every 12 characters, so that a loop without
    spaces shows too. An answer shorter than `n` words repeats nothing; one without any letter or digit is 0.
    As a part of `weighted` it keeps a length reward from being earned by saying the same thing again.

    Cannot see: whether anything that is said is right; the same thing in other words; repetition that is
    asked for (a table, a poem's refrain), which costs a little.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        n: int = Field(4, ge=1, le=50)

    name = "repetition"
    blind_to = frozenset({"content"})
    cases = (
        Case("Explain.", "No four words here are ever the same.", expect=1.0),
        Case("Explain.", "and so on and so on and so on", expect=3 / 6),
        Case("Explain.", "go " * 100, expect=1 / 97),
        Case("Explain.", "A" * 1200, expect=1 / 97),
        Case("Explain.", "a b a b", expect=2 / 3, config={"n": 2}),
        Case("2+2?", "4", expect=1.0),
        Case("Explain.", "", expect=0.0),
        Case("Explain.", ":", expect=0.0),
        Case("Explain.", "-" * 100, expect=0.0),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        words = _TOKEN.findall(rollout.text.casefold())
        if not any(word[0].isalnum() for word in words):
            return Score(0.0, reason="says nothing")
        runs = list(zip(*(words[start:] for start in range(self.config.n)), strict=False))
        if not runs:
            return Score(1.0, reason=f"{len(words)} words")
        return Score(len(set(runs)) / len(runs), reason=f"{len(set(runs))} of {len(runs)} runs are new")
