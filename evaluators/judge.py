"""A language model judges each answer against a rubric, one criterion after the other.

    evaluator:
      use: judge
      with:
        url: https://judge.example.com/v1
        model: some-model
        api_key: env:JUDGE_KEY
        criteria:
          correct: {text: "The fee named is the one in the reference.", weight: 3}
          tone: "Polite, and at most two sentences."

`engine: base` instead of url, model and api_key lets the weights judge that an adapter is trained on, on the
training engine itself: nothing to pay, nothing to set up, and a judge as weak as the model was at the start.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import model_validator

from rft.evaluators._judge import JudgeConfig, Judging, UnreadableVerdict, reasons
from rft.evaluators._judge_prompt import answer_texts, question, task_texts
from rft.types import Rollout, Score

_WIDEST = 100  # a scale is sent as a list of its numbers


class Judge(Judging):
    """The weighted mean of the criteria, each on a whole-number scale that is mapped to 0 to 1.

    Each criterion is a part of the score, with the judge's reason. Cannot see: whether a fact that stands
    neither in the prompt nor in the reference is true, beyond what the judging model knows; the middle of
    texts longer than `max_chars`; how other answers to the same prompt do. Judging models favour long and
    confident answers and can be flattered: check it with adversarial cases, and add a rule that reads no
    words (length, exact) where there is one.
    """

    class Config(JudgeConfig):
        scale: tuple[int, int] = (1, 5)
        """The worst and the best mark."""

        @model_validator(mode="after")
        def _scale_rises(self) -> Self:
            low, high = self.scale
            if not 0 < high - low <= _WIDEST:
                raise ValueError(f"scale must rise, by at most {_WIDEST}: [worst, best], got [{low}, {high}]")
            return self

    name = "judge"
    job = "You judge one answer of an AI assistant, criterion by criterion. Be strict and consistent."

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        low, high = self.config.scale
        self.form = f'{{"reason": "...", "score": whole number from {low} to {high}}}'

    async def evaluate(self, rollout: Rollout) -> Score:
        low, high = self.config.scale
        names = list(self.config.criteria)
        texts = [
            *task_texts(rollout.task, reference=self.config.reference != "hidden"),
            *answer_texts(rollout),
        ]
        marks = {"score": {"type": "integer", "enum": list(range(low, high + 1))}}
        ask = f"Judge the answer by each criterion, from {low} (not at all) to {high} (fully)."
        try:
            verdict, cost = await self.ask(names, marks, question(texts, ask, self.config.max_chars))
        except UnreadableVerdict as error:
            return error.score()
        parts = {
            name: Score((verdict[name]["score"] - low) / (high - low), reason=verdict[name]["reason"])
            for name in names
        }
        return Score(self.weighed(parts), reason=reasons(parts), parts=parts, cost=cost)
