"""Words shared with the reference, as SQuAD counts them."""

from __future__ import annotations

import re
import string
from collections import Counter

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import accepted
from rft.types import Rollout, Score

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


class TokenF1(Evaluator):
    """F1 of the answer's words against the reference's: 2 * shared / (words said + words wanted).

    Words as in SQuAD (arXiv 1606.05250): lower case, no ASCII punctuation, no a, an, the; the best of a list
    of references counts. Every word too many lowers precision, so listing candidates does not pay.

    Cannot see: the order of words, negation, synonyms; languages that write no spaces.
    """

    name = "token_f1"
    requires = frozenset({"reference"})
    cases = (
        Case("Who?", "Ada Lovelace", expect=1.0, reference="Ada Lovelace"),
        Case("Who?", "The lovelace, ada!", expect=1.0, reference="Ada Lovelace"),
        Case("Who?", "Ada", expect=2 / 3, reference="Ada Lovelace"),
        Case("Who?", "It was Ada Lovelace", expect=2 / 3, reference="Ada Lovelace"),
        Case("Who?", "Ada Ada Ada", expect=0.4, reference="Ada Lovelace"),
        Case("Who?", "Grace", expect=1.0, reference=["Ada Lovelace", "Grace"]),
        Case("Who?", "Alan Turing", expect=0.0, reference="Ada Lovelace"),
        Case("Who?", "Turing Church Hopper Lovelace Knuth Dijkstra", expect=0.25, reference="Ada Lovelace"),
        Case("Who?", "", expect=0.0, reference="Ada Lovelace"),
        Case("Who?", "Ada", expect="unscored", reference="The ..."),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        wanted = [_words(one) for one in accepted(rollout.task.reference)]
        if not all(wanted):
            return Score.skip("the reference holds no words")
        said = _words(rollout.text)
        best = max(2 * (said & one).total() / (said.total() + one.total()) for one in wanted)
        return Score(best, reason=f"F1 {best:.3f} of {said.total()} words")


def _words(text: str) -> Counter[str]:
    return Counter(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
