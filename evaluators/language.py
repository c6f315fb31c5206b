"""Is the answer written in the language that was asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rft.errors import UserError
from rft.evaluator import Case, Evaluator
from rft.types import Rollout, Score

_PIECE = 40
_ENOUGH = 20
"""Letters. From fewer, a language cannot be told with any certainty."""
_IDEOGRAPHS = "\u2e80"


class Language(Evaluator):
    """The share of the answer's letters that stand in pieces written in `language` (ISO 639-1: en, de, zh).

    A piece is some lines of at least 40 letters; py3langid says which of 97 languages it is in. So a passage
    that slips into another language costs its share. Without `language` it is the task's field `language`.
    No letters at all is 0; fewer than 20 leave the sample unscored. A Chinese or Japanese character counts as
    three letters.

    Cannot see: whether what is said is right or even makes sense; single foreign words; close relatives
    (Danish and Norwegian) with certainty; code, which reads as English.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        language: str | None = Field(None, pattern="^[a-z]{2}$")

    name = "language"
    blind_to = frozenset({"content"})
    cases = (
        Case("Warum?", "Weil das Licht der Sonne in der Luft gestreut wird.", 1.0, config={"language": "de"}),
        Case("Warum?", "Because sunlight is scattered by the air above us.", 0.0, config={"language": "de"}),
        Case("Pourquoi?", "Parce que la lumière est diffusée par l'air.", 1.0, fields={"language": "fr"}),
        Case("为什么?", "因为天空中的阳光被空气散射了。", 1.0, config={"language": "zh"}),
        Case(
            "Warum?",
            "Das Licht der Sonne wird an den kleinen Teilchen in der Luft gestreut.\n"
            "Therefore the sky is blue on most days, as everybody can see.",
            (0.4, 0.7),
            config={"language": "de"},
        ),
        Case("Warum?", "", 0.0, config={"language": "de"}),
        Case("Warum?", ": 1234", 0.0, config={"language": "de"}),
        Case("Warum?", "Ja.", "unscored", config={"language": "de"}),
        Case("Warum?", "Weil das Licht der Sonne gestreut wird.", "unscored"),
    )

    def setup(self) -> None:  # type: ignore[override]  # a plain method is allowed
        """Loads the classifier. Raises UserError without it, or for a language it does not know."""
        self._classifier = _classifier()
        known = set(self._classifier.labels)
        if self.config.language is not None and self.config.language not in known:
            raise UserError(f"language: {self.config.language!r} is none of {', '.join(sorted(known))}")

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        wanted = self.config.language or rollout.task.metadata.get("language")
        if wanted not in self._classifier.labels:
            return Score.skip(f"no known language is asked for, got {str(wanted)[:20]!r}")
        total = _letters(rollout.text)
        if total == 0:
            return Score(0.0, reason="no letters")
        if total < _ENOUGH:
            return Score.skip(f"{total} letters are too few to tell a language")
        right, other = 0, ""
        for piece in _pieces(rollout.text):
            told = str(self._classifier.classify(piece)[0])
            right += _letters(piece) if told == wanted else 0
            other = other or (told if told != wanted else "")
        return Score(
            right / total, reason=f"{right} of {total} letters{f', the rest {other}' if other else ''}"
        )


@functools.cache
def _classifier() -> Any:
    """py3langid's model; reading it takes a second. Raises UserError without the library."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UserError("the evaluator language needs py3langid: pip install 'rft-loop[text]'") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _letters(text: str) -> int:
    return sum((3 if letter >= _IDEOGRAPHS else 1) for letter in text if letter.isalpha())


def _pieces(text: str) -> Iterator[str]:
    """The text in stretches of whole lines with at least `_PIECE` letters; what remains joins the last."""
    pieces: list[str] = []
    lines: list[str] = []
    count = 0
    for line in text.splitlines():
        lines.append(line)
        count += _letters(line)
        if count >= _PIECE:
            pieces.append("\n".join(lines))
            lines, count = [], 0
    if count and pieces and count < _ENOUGH:
        pieces[-1] += "\n" + "\n".join(lines)
    elif count:
        pieces.append("\n".join(lines))
    yield from pieces
