"""The answer matches a pattern: format rather than content."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, field_validator

from rft.evaluator import Case, Evaluator
from rft.types import Rollout, Score


class Regex(Evaluator):
    """1 when the pattern is found in the answer (with `full`, when it covers all of it), else 0.

    Cannot see: whether what stands in the format is right. No time limit ends a Python regular expression,
    and one that backtracks holds up everything on a hostile answer: write `<b>[^<]+</b>`, not `<b>.+</b>`,
    and never `(a+)+`.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        pattern: str
        full: bool = False
        ignore_case: bool = False
        dot_all: bool = True
        """A dot matches line breaks too."""

        @field_validator("pattern")
        @classmethod
        def _compiles(cls, pattern: str) -> str:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
            return pattern

    name = "regex"
    blind_to = frozenset({"content"})
    cases = (
        Case("?", "<answer>4</answer>", expect=1.0, config={"pattern": "<answer>[^<]+</answer>"}),
        Case("?", "So <answer>\n4\n</answer>.", expect=1.0, config={"pattern": "<answer>[^<]+</answer>"}),
        Case("?", "<answer></answer>", expect=0.0, config={"pattern": "<answer>[^<]+</answer>"}),
        Case("?", "So 4", expect=1.0, config={"pattern": r"\d"}),
        Case("?", "So 4", expect=0.0, config={"pattern": r"\d", "full": True}),
        Case("?", "YES", expect=0.0, config={"pattern": "yes|no", "full": True}),
        Case("?", "YES", expect=1.0, config={"pattern": "yes|no", "full": True, "ignore_case": True}),
    )

    async def setup(self) -> None:
        options = self.config
        flags = (re.IGNORECASE if options.ignore_case else 0) | (re.DOTALL if options.dot_all else 0)
        pattern = re.compile(options.pattern, flags)
        self._match = pattern.fullmatch if options.full else pattern.search

    async def evaluate(self, rollout: Rollout) -> Score:
        if self._match(rollout.text):
            return Score(1.0)
        return Score(0.0, reason=f"does not match {self.config.pattern!r}"[:200])
