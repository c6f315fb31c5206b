"""The answer is the reference, and nothing else."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import accepted
from rft.types import Rollout, Score


class Exact(Evaluator):
    """1 when the whole answer equals the reference (or one of a list of references), else 0.

    Cannot see: an answer that means the same in other words, or the right answer inside a sentence
    (`includes` sees that). Rarely right by chance, so a weak model may never get a first success.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        strip: bool = True
        """Ignore white space around the answer."""
        ignore_case: bool = False

    name = "exact"
    requires = frozenset({"reference"})
    cases = (
        Case("2+2?", " 4\n", expect=1.0, reference="4"),
        Case("2+2?", "4", expect=1.0, reference=4),
        Case("2+2?", "The answer is 4", expect=0.0, reference="4"),
        Case("Capital of France?", "paris", expect=0.0, reference="Paris"),
        Case("Capital of France?", "paris", expect=1.0, reference="Paris", config={"ignore_case": True}),
        Case("Yes or no?", "y", expect=1.0, reference=["yes", "y"]),
        Case("2+2?", " 4", expect=0.0, reference="4", config={"strip": False}),
        Case("2+2?", "", expect=0.0, reference="4"),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        right = {self._plain(one) for one in accepted(rollout.task.reference)}
        return Score(1.0) if self._plain(rollout.text) in right else Score(0.0, reason="not the reference")

    def _plain(self, text: str) -> str:
        text = text.strip() if self.config.strip else text
        return text.casefold() if self.config.ignore_case else text
