"""Translations by their runs of words, as the field reports them."""

from __future__ import annotations

from rft.errors import UserError
from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import accepted
from rft.types import Rollout, Score


class BLEU(Evaluator):
    """Sentence BLEU by sacrebleu, over 100: runs of one to four words shared with the reference.

    Effective order (a short sentence has no runs of four) and exponential smoothing; several references count
    together. Between single sentences it is coarse; sacrebleu's `13a` tokens suit European languages.

    Cannot see: meaning, or a good translation in other words.
    """

    name = "bleu"
    requires = frozenset({"reference"})
    cases = (
        Case("Translate.", "The cat is on the mat.", expect=1.0, reference="The cat is on the mat."),
        Case("Translate.", "The cat sat on the mat.", expect=(0.3, 0.7), reference="The cat is on the mat."),
        Case(
            "Translate.", "the the the the the the the", expect=(0.0, 0.2), reference="The cat is on the mat."
        ),
        Case("Translate.", "Dogs bark.", expect=(0.0, 0.1), reference="The cat is on the mat"),
        Case("Translate.", "", expect=0.0, reference="The cat is on the mat."),
        Case("Translate.", "The cat", expect="unscored", reference=""),
    )

    def setup(self) -> None:  # type: ignore[override]  # a plain method is allowed
        """Raises UserError without the library."""
        try:
            from sacrebleu.metrics import BLEU as Metric
        except ImportError:
            raise UserError("the evaluator bleu needs sacrebleu: pip install 'rft-loop[text]'") from None
        self._metric = Metric(effective_order=True)

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        wanted = accepted(rollout.task.reference)
        if not wanted or not all(one.strip() for one in wanted):
            return Score.skip("the reference is empty")
        value = self._metric.sentence_score(rollout.text, wanted).score / 100
        return Score(min(max(value, 0.0), 1.0), reason=f"BLEU {value:.3f}")  # a last digit above 1
