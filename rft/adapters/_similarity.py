"""The measures of OpenAI's text_similarity graders, each from 0 to 1.

OpenAI names them without defining them. `fuzzy_match` is taken as in its guide's own example (rapidfuzz's
WRatio with the default processor), BLEU is sacrebleu's sentence BLEU with effective order, ROUGE and Google
BLEU are by their papers over words in lower case. Scores can differ from OpenAI's in the second digit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

from rft.evaluators.rouge_l import common_subsequence

_WORD = re.compile(r"\w+")


def fuzzy_match(text: str, reference: str) -> float:
    """rapidfuzz's weighted ratio, over 100."""
    from rapidfuzz import fuzz, utils

    return float(fuzz.WRatio(text, reference, processor=utils.default_process)) / 100


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU, over 100."""
    from sacrebleu import sentence_bleu

    return min(float(sentence_bleu(text, [reference]).score) / 100, 1.0)


def gleu(text: str, reference: str) -> float:
    """Google BLEU (Wu et al. 2016, section 8): lesser of precision and recall, runs of 1 to 4 words."""
    said, wanted = _words(text), _words(reference)
    shared = sum(_shared(said, wanted, n) for n in range(1, 5))
    most = max(sum(max(len(words) - n + 1, 0) for n in range(1, 5)) for words in (said, wanted))
    return shared / most if most else 0.0


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L (Lin 2004), F1 of the longest common subsequence."""
    said, wanted = _words(text), _words(reference)
    return 2 * common_subsequence(wanted, said) / (len(said) + len(wanted)) if said and wanted else 0.0


def rouge(n: int) -> Callable[[str, str], float]:
    """ROUGE-n (Lin 2004), F1 of the runs of n words."""

    def measure(text: str, reference: str) -> float:
        said, wanted = _words(text), _words(reference)
        runs = max(len(said) - n + 1, 0) + max(len(wanted) - n + 1, 0)
        return 2 * _shared(said, wanted, n) / runs if runs else 0.0

    return measure


MEASURES: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "rouge_l": rouge_l,
    **{f"rouge_{n}": rouge(n) for n in range(1, 6)},
}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _shared(said: list[str], wanted: list[str], n: int) -> int:
    """Runs of n words in both, each counted as often as in the one that has it less often."""
    return (Counter(_runs(said, n)) & Counter(_runs(wanted, n))).total()
