"""The share of positions that are right in a list: partial credit for sorting, ranking, copying in order."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import numbers
from rft.types import Rollout, Score

_BRACKETS = str.maketrans(dict.fromkeys("[](){}<>\"'`*", " "))


class PositionShare(Evaluator):
    """Positions where the answer's list has the right item, over the length of the longer list.

    Extra and missing items count against the answer, so neither listing more nor stopping early pays. One
    item repeated ("7, 7, 7") is sure to hit a position, and a model under training may find that out: with
    `rearranged: true` an answer that does not have exactly the reference's items scores 0.
    `items: numbers` reads every number in the answer and compares values ("07" is 7); `items: words` splits
    at white space and commas, and then every word of chatter is an extra item.

    Cannot see: a list that is right but shifted by one, or chatter without numbers.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        items: Literal["numbers", "words"] = "numbers"
        rearranged: bool = False

    name = "position_share"
    requires = frozenset({"reference"})
    blind_to = frozenset({"negated", "contradiction"})
    cases = (
        Case("Sort: 3 1 2", "1 2 3", expect=1.0, reference="1 2 3"),
        Case("Sort: 3 1 2", "[1, 2, 3]", expect=1.0, reference=[1, 2, 3]),
        Case("Sort: 3 1 2", "Sorted: 1, 2, 3", expect=1.0, reference="1 2 3"),
        Case("Sort: 3 1 2", "1 3 2", expect=1 / 3, reference="1 2 3"),
        Case("Sort: 3 1 2", "1 2", expect=2 / 3, reference="1 2 3"),
        Case("Sort: 3 1 2", "1 2 3 4 5 6", expect=0.5, reference="1 2 3"),
        Case("Sort: 3 1 2", "3 1 2", expect=0.0, reference="1 2 3"),
        Case("Sort: 3 1 2", "I cannot do that", expect=0.0, reference="1 2 3"),
        Case("Sort: b a", "a, b", expect=1.0, reference="a b", config={"items": "words"}),
        Case("Sort: b a", "Sure: a b", expect=0.0, reference="a b", config={"items": "words"}),
        Case("Sort: 3 1 2", "1 1 1", expect=1 / 3, reference="1 2 3"),
        Case("Sort: 3 1 2", "1 1 1", expect=0.0, reference="1 2 3", config={"rearranged": True}),
        Case("Sort: 3 1 2", "1 3 2", expect=1 / 3, reference="1 2 3", config={"rearranged": True}),
        Case("Sort: nothing", "1", expect="unscored", reference=""),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        right, said = self._items(rollout.task.reference), self._items(rollout.text)
        if not right:
            return Score.skip("the reference is an empty list")
        if self.config.rearranged and sorted(right) != sorted(said):
            return Score(0.0, reason="other items than the reference's")
        hits = sum(a == b for a, b in zip(right, said, strict=False))
        longer = max(len(right), len(said))
        return Score(hits / longer, reason=f"{hits} of {longer} positions right")

    def _items(self, value: Any) -> list[Any]:
        text = value if isinstance(value, str) else " ".join(map(str, value))
        if self.config.items == "numbers":
            return numbers(text)
        return text.translate(_BRACKETS).replace(",", " ").split()
