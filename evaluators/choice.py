"""Multiple choice: the letter the answer settles on."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

from rft.evaluator import Case, Evaluator
from rft.types import Rollout, Score

_ARTICLE = r"(?! (?!or\b|and\b)[a-z])"  # "A good question", "I think" name no choice; "A or B" names two
_LETTER = re.compile(rf"(?<![\w'])\(?([B-HJ-Z]|[AI]{_ARTICLE})\)?(?![\w'])")
_OPEN, _CLOSE = r"[*({\[\"]{0,3}", r"[)}\]*\"]{0,3}"
_OTHER = rf" ?{_CLOSE} ?(?:[,;/|&+]|or\b|and\b) ?(?:or |and )?{_OPEN}[A-Z](?:[^\w' ]| or\b| and\b|$)"
_STATED = re.compile(
    rf"(?i:\banswer(?: is)?:?|\bchoice(?: is)?:?|\boption:?|\\boxed) ?{_OPEN}([A-Z])(?![\w'])(?!{_OTHER})"
)


class Choice(Evaluator):
    """1 when the answer settles on the reference letter, else 0.

    It settles by stating it ("the answer is B", "\\boxed{B}"; the last statement counts), or by naming one
    letter alone. Naming several without stating one is no answer, nor is stating several at once ("the answer
    is A, B or C") or every one in turn, so listing all options earns nothing.

    Cannot see: whether the reasoning supports the letter, lower-case letters, a choice named by its words.
    Guessing is right one time in the number of choices.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        letters: str = Field("ABCD", pattern="^[A-Z]{2,26}$")

    name = "choice"
    requires = frozenset({"reference"})
    blind_to = frozenset({"negated"})
    cases = (
        Case("Which?", "B", expect=1.0, reference="B"),
        Case("Which?", "(B)", expect=1.0, reference="B"),
        Case("Which?", "B) Paris", expect=1.0, reference="B"),
        Case("Which?", "A or B? The answer is **B**.", expect=1.0, reference="B"),
        Case("Which?", "Answer: A. No, wait. Answer: B", expect=1.0, reference="B"),
        Case("Which?", "so \\boxed{B}", expect=1.0, reference="B"),
        Case("Which?", "A, B, C, D", expect=0.0, reference="B"),
        Case("Which?", "A or B", expect=0.0, reference="B"),
        Case("Which?", "The answer is A, B, C, D", expect=0.0, reference="A"),
        Case("Which?", "The answer is (A) or (B).", expect=0.0, reference="A"),
        Case("Which?", "The answer is A, because", expect=1.0, reference="A"),
        Case("Which?", "Answer: A. Answer: B. Answer: C. Answer: D", expect=0.0, reference="D"),
        Case("Which?", "A good question. B!", expect=1.0, reference="B"),
        Case("Which?", "A good question.", expect=0.0, reference="A"),
        Case("Which?", "A. Rome", expect=1.0, reference="A"),
        Case("Which?", "C", expect=0.0, reference="B"),
        Case("Which?", "I am not sure", expect=0.0, reference="B"),
        Case("Which?", "", expect=0.0, reference="B"),
        Case("Which?", "B", expect="unscored", reference="Paris"),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        gold = str(rollout.task.reference).strip()
        if len(gold) != 1 or gold not in self.config.letters:
            return Score.skip(f"the reference {gold[:40]!r} is not one of {self.config.letters}")
        chosen = self._chosen(rollout.text)
        if chosen is None:
            return Score(0.0, reason="no single choice")
        return Score(float(chosen == gold), reason=f"chose {chosen}")

    def _chosen(self, text: str) -> str | None:
        stated = [letter for letter in _STATED.findall(text) if letter in self.config.letters]
        if stated:
            return stated[-1] if len(set(stated)) < max(3, len(self.config.letters)) else None
        named = {letter for letter in _LETTER.findall(text) if letter in self.config.letters}
        return named.pop() if len(named) == 1 else None
