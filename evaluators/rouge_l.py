"""Words in common with the reference, in its order: the longest common subsequence."""

from __future__ import annotations

import re

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import accepted
from rft.types import Rollout, Score

_WORD = re.compile(r"\w+")


class RougeL(Evaluator):
    """ROUGE-L (Lin 2004), F with beta 1: 2 * LCS / (words said + words wanted), the best of a list.

    Words are runs of letters and digits in lower case, without stemming. The order counts, gaps do not.

    Cannot see: truth; other words for the same thing; languages that write no spaces.
    """

    name = "rouge_l"
    requires = frozenset({"reference"})
    cases = (
        Case("Sum up.", "Police killed the gunman.", expect=1.0, reference="police killed the gunman"),
        Case("Sum up.", "police kill the gunman", expect=0.75, reference="police killed the gunman"),
        Case("Sum up.", "the gunman kill police", expect=0.5, reference="police killed the gunman"),
        Case("Sum up.", "gunman the killed police", expect=0.25, reference="police killed the gunman"),
        Case("Sum up.", "the the the the", expect=0.25, reference="police killed the gunman"),
        Case("Sum up.", "nothing of it", expect=0.0, reference="police killed the gunman"),
        Case("Sum up.", "nothing of it", expect=1.0, reference=["police killed the gunman", "nothing of it"]),
        Case("Sum up.", "", expect=0.0, reference="police killed the gunman"),
        Case("Sum up.", "police", expect="unscored", reference="..."),
    )

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        wanted = [_WORD.findall(one.lower()) for one in accepted(rollout.task.reference)]
        if not all(wanted):
            return Score.skip("the reference holds no words")
        said = _WORD.findall(rollout.text.lower())
        best = max(2 * common_subsequence(one, said) / (len(one) + len(said)) for one in wanted)
        return Score(best, reason=f"ROUGE-L {best:.3f}")


def common_subsequence(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence, a machine word of `first` at a time.

    Bit-parallel (Hyyro 2004): a zero in row `bits` at i says that the LCS of first[:i+1] and what was read of
    `second` is one longer than that of first[:i].

    >>> common_subsequence("police killed the gunman".split(), "the gunman kill police".split())
    2
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    whole = (1 << len(first)) - 1
    bits = whole
    for word in second:
        hit = bits & places.get(word, 0)
        bits = ((bits + hit) | (bits - hit)) & whole
    return len(first) - bits.bit_count()
