"""Nearly the reference: how much two texts agree, letter by letter."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rft.errors import UserError
from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import accepted
from rft.types import Rollout, Score


class Fuzzy(Evaluator):
    """The similarity of the answer to the reference (the best of a list), 0 below `floor`.

    `ratio` is 1 - indel distance / (length of both); `levenshtein` is 1 - edit distance / longer length;
    `partial` is the best ratio of the reference to any stretch of the answer, so that words around it are
    free. With `threshold`, 1 from there on, else 0. Any two texts of one language share letters: unrelated
    sentences reach 0.3 to 0.5 by `ratio`, which is why there is a floor.

    Cannot see: meaning. "is" and "is not" differ by four letters, and 1945 from 1946 by one. `partial` cannot
    see an answer that lists every candidate.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        method: Literal["ratio", "levenshtein", "partial"] = "ratio"
        floor: float = Field(0.5, ge=0, lt=1)
        threshold: float | None = Field(None, gt=0, le=1)
        ignore_case: bool = True

    name = "fuzzy"
    requires = frozenset({"reference"})
    blind_to = frozenset({"negated", "contradiction"})
    cases = (
        Case("Capital of France?", " paris\n", expect=1.0, reference="Paris"),
        Case("Author?", "Dostoyevsky", expect=(0.8, 0.99), reference="Dostoevsky"),
        Case("Author?", "Dostoyevsky", expect=1.0, reference="Dostoevsky", config={"threshold": 0.9}),
        Case("Author?", "Gogol", expect=0.0, reference="Dostoevsky"),
        Case("Author?", "Tolstoy", expect=1.0, reference=["Dostoevsky", "Tolstoy"]),
        Case("Author?", "It was Dostoevsky.", expect=(0.5, 0.8), reference="Dostoevsky"),
        Case(
            "Author?", "It was Dostoevsky.", expect=1.0, reference="Dostoevsky", config={"method": "partial"}
        ),
        Case("Author?", "t", expect=0.0, reference="Dostoevsky", config={"method": "partial"}),
        Case("Word?", "kitten", expect=4 / 7, reference="sitting", config={"method": "levenshtein"}),
        Case("Author?", "Tolstoy, Gogol, Dostoevsky, Chekhov, Pushkin", expect=0.0, reference="Dostoevsky"),
        Case("Author?", "", expect=0.0, reference="Dostoevsky"),
        Case("Author?", "Tolstoy", expect="unscored", reference=" "),
    )

    def setup(self) -> None:  # type: ignore[override]  # a plain method is allowed
        """Raises UserError without the library."""
        try:
            import rapidfuzz  # noqa: F401  # only whether it is there
        except ImportError:
            raise UserError("the evaluator fuzzy needs rapidfuzz: pip install 'rft-loop[text]'") from None

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        wanted = [self._plain(one) for one in accepted(rollout.task.reference)]
        if not all(wanted):
            return Score.skip("the reference is empty")
        said = self._plain(rollout.text)
        best = max(self._similarity(said, one) for one in wanted)
        reason = f"similarity {best:.3f}"
        if self.config.threshold is not None:
            return Score(float(best >= self.config.threshold), reason=reason)
        return Score(best if best >= self.config.floor else 0.0, reason=reason)

    def _similarity(self, said: str, wanted: str) -> float:
        from rapidfuzz import fuzz
        from rapidfuzz.distance import Levenshtein

        if self.config.method == "levenshtein":
            return float(Levenshtein.normalized_similarity(said, wanted))
        if self.config.method == "partial" and len(said) > len(wanted):
            return float(fuzz.partial_ratio(wanted, said)) / 100
        return float(fuzz.ratio(said, wanted)) / 100

    def _plain(self, text: str) -> str:
        return text.strip().casefold() if self.config.ignore_case else text.strip()
