"""Mathematics: the answer's expression equals the reference's, however it is written."""

from __future__ import annotations

import re
import threading
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rft.errors import UserError
from rft.evaluator import Case, Evaluator, Limits
from rft.evaluators._answers import ends_in_several, number
from rft.types import Rollout, Score

_LONGEST, _FORMULA = 20_000, 300
_DELIMITED = re.compile(r"\$|\\boxed|\\\(|\\\[")
_PROSE = re.compile(r"[^\W\d_]{2,}\s+[^\W\d_]{2,}|\n|[.:!?]\s")


class MathEquivalence(Evaluator):
    r"""1 when the answer's final expression equals the reference's by math-verify, else 0.

    Fractions, roots, sets, intervals, matrices, equations and units are compared as mathematics, so that
    `\frac{1}{2}` is 0.5. Of an answer the \boxed{...} counts where there is one (several boxes are a set),
    else the last expression; a list of numbers is no answer where one number is asked for. `answer: boxed`
    demands the box. Formulas within a sentence need dollar signs; an answer that is a formula alone does not.

    A reference that cannot be read leaves the sample unscored. It runs in worker processes: math-verify stops
    a long computation by a signal, which reaches a main thread only. An answer that is stopped so
    (`timeout_s`; 10^{10^{10}}, say) is wrong; where even the signal is not heard, the worker is killed and
    the sample masked.

    Cannot see: whether the steps are right; a right answer in words; which of several expressions in a
    sentence was meant.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        answer: Literal["last", "boxed"] = "last"
        digits: int = Field(6, ge=0, le=15)
        """Decimal places to which numbers are compared."""
        timeout_s: int = Field(3, ge=1, le=60)
        """Whole seconds for reading the answer, and again for comparing it."""

    name = "math_equivalence"
    requires = frozenset({"reference"})
    execution = "process"
    limits = Limits(concurrency=2, timeout_s=20.0, attempts=1)
    blind_to = frozenset({"negated", "contradiction"})
    cases = (
        Case("Half of one?", r"It is $\frac{1}{2}$.", expect=1.0, reference="0.5"),
        Case("Half of one?", r"\boxed{\dfrac12}", expect=1.0, reference=r"$\frac{1}{2}$"),
        Case("Solve.", r"Hence $x = 3$", expect=1.0, reference="3"),
        Case("Solve.", r"$\{1, 2\}$", expect=1.0, reference=r"\{2, 1\}"),
        Case("Expand.", "$x^2+2x+1$", expect=1.0, reference="$(x+1)^2$"),
        Case("Expand.", "x^2+2x+1", expect=1.0, reference="(x+1)^2"),
        Case("Expand.", "x^2+2x", expect=0.0, reference="(x+1)^2"),
        Case("Which?", "[0, 1)", expect=0.0, reference="[0, 1]"),
        Case("2+2?", "4", expect=1.0, reference=4),
        Case("2+2?", "4", expect=0.0, reference="4", config={"answer": "boxed"}),
        Case("2+2?", r"\boxed{4}", expect=1.0, reference="4", config={"answer": "boxed"}),
        Case("2+2?", "It is 4 apples.", expect=1.0, reference="4"),
        Case("2+2?", r"\boxed{3}, \boxed{4}, \boxed{5}", expect=0.0, reference="4"),
        Case("2+2?", "2, 3 or 4", expect=0.0, reference="4"),
        Case("2+2?", "$10^{10^{10}}$", expect=0.0, reference="4", config={"timeout_s": 1}),
        Case("2+2?", "I do not know", expect=0.0, reference="4"),
        Case("2+2?", "", expect=0.0, reference="4"),
        Case("2+2?", "4", expect="unscored", reference="no idea"),
    )

    def setup(self) -> None:  # type: ignore[override]  # a plain method is allowed
        """Raises UserError without the library."""
        try:
            import math_verify  # noqa: F401  # only whether it is there
        except ImportError:
            raise UserError(
                "the evaluator math_equivalence needs math-verify: pip install 'rft-loop[math]'"
            ) from None

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a worker
        from math_verify import verify

        told = str(rollout.task.reference)
        gold = self._parsed(told)
        if not any(not isinstance(one, str) for one in gold):
            return Score.skip(f"the reference {told[:60]!r} is no expression")
        text = rollout.text[-_LONGEST:]
        boxed = "\\boxed" in text
        if self.config.answer == "boxed" and not boxed:
            return Score(0.0, reason="no \\boxed{}")
        if not boxed and number(told) is not None and ends_in_several(text):
            return Score(0.0, reason="several numbers, no single answer")
        said = self._parsed(text)
        if not said:
            return Score(0.0, reason="no expression that can be read in time")
        right = verify(gold, said, float_rounding=self.config.digits, timeout_seconds=self._seconds())
        return Score(float(right), reason=None if right else f"read as {str(said[-1])[:80]!r}")

    def _parsed(self, text: str) -> list[Any]:
        from math_verify import parse

        found: list[Any] = parse(_delimited(text), parsing_timeout=self._seconds())
        return found

    def _seconds(self) -> int | None:
        """math-verify's own limit, which works in a worker's main thread and raises in any other thread."""
        return self.config.timeout_s if threading.current_thread() is threading.main_thread() else None


def _delimited(text: str) -> str:
    """A formula alone, between the dollar signs that math-verify looks for; anything else as it is."""
    text = text.strip()
    if len(text) > _FORMULA or number(text) is not None or _DELIMITED.search(text) or _PROSE.search(text):
        return text
    return f"${text}$"
