"""The reference occurs somewhere in the answer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import accepted
from rft.types import Rollout, Score


class Includes(Evaluator):
    """1 when the reference (one of a list; with `all`, each) occurs in the answer as whole words, else 0.

    Cannot see: negation ("it is not Paris"), and an answer that lists every candidate. A model learns to do
    just that when nothing else counts; weigh in a length limit.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        ignore_case: bool = True
        whole_words: bool = True
        """"4" is not found in "14"."""
        all: bool = False

    name = "includes"
    requires = frozenset({"reference"})
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
        start = text.find(wanted)
        while start >= 0:
            end = start + len(wanted)
            inside_word = (text[start - 1 : start].isalnum() and wanted[0].isalnum()) or (
                text[end : end + 1].isalnum() and wanted[-1].isalnum()
            )
            if not (self.config.whole_words and inside_word):
                return True
            start = text.find(wanted, start + 1)
        return False
