"""Translations by their runs of characters: finer than words, and for every script."""

from __future__ import annotations

from rft.errors import UserError
from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import accepted
from rft.types import Rollout, Score


class ChrF(Evaluator):
    """chrF (Popovic 2015) by sacrebleu, over 100: runs of one to six characters shared with the reference.

    Recall counts twice as much as precision; the best of several references counts. White space is left out.

    Cannot see: meaning, or a good translation in other words. Unrelated sentences of one language share
    letters and reach 0.1 to 0.2.
    """

    name = "chrf"
    requires = frozenset({"reference"})
    cases = (
        Case("Translate.", "Die Katze sitzt.", expect=1.0, reference="Die Katze sitzt."),
        Case("Translate.", "Die Katzen sitzen.", expect=(0.5, 0.9), reference="Die Katze sitzt."),
        Case("Translate.", "猫が座る。", expect=(0.1, 0.9), reference="猫が座っている。"),
        Case("Translate.", "Hunde bellen laut", expect=(0.0, 0.2), reference="Die Katze sitzt."),
        Case("Translate.", "e" * 200, expect=(0.0, 0.2), reference="Die Katze sitzt."),
        Case("Translate.", "", expect=0.0, reference="Die Katze sitzt."),
        Case("Translate.", "Die Katze", expect="unscored", reference=""),
    )

    def setup(self) -> None:  # type: ignore[override]  # a plain method is allowed
        """Raises UserError without the library."""
        try:
            from sacrebleu.metrics import CHRF as Metric
        except ImportError:
            raise UserError("the evaluator chrf needs sacrebleu: pip install 'rft-loop[text]'") from None
        self._metric = Metric()

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        wanted = accepted(rollout.task.reference)
        if not wanted or not all(one.strip() for one in wanted):
            return Score.skip("the reference is empty")
        value = self._metric.sentence_score(rollout.text, wanted).score / 100
        return Score(min(max(value, 0.0), 1.0), reason=f"ChrF {value:.3f}")  # a last digit above 1
