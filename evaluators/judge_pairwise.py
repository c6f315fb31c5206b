"""A language model says which of two answers is better; the share of points won is the score."""

from __future__ import annotations

from typing import Any, Literal

from rft.evaluator import PairwiseEvaluator
from rft.evaluators._judge import JudgeConfig, Judging, UnreadableVerdict, reasons
from rft.evaluators._judge_prompt import answer_texts, question, task_texts
from rft.types import Rollout, Score

_POINTS = {"answer_1": 1.0, "tie": 0.5, "answer_2": 0.0}


class JudgePairwise(Judging, PairwiseEvaluator):
    """Compares the answers to one prompt two by two, in both orders, by each criterion.

    Judging models favour a place: where the two orders disagree on the winner the pair is a tie, and the
    metric `disagreement` says how often. Identical answers tie unasked. Cannot see: whether any of the
    answers is good, only which is better; the middle of texts longer than `max_chars`; and what `judge`
    cannot see. Scores of different prompts do not compare.
    """

    class Config(JudgeConfig):
        schedule: Literal["round_robin", "swiss", "baseline"] = "round_robin"
        """Who meets whom; see `rft.PairwiseEvaluator`. `baseline`: everyone meets the reference, which then
        is not shown besides."""

    name = "judge_pairwise"
    job = (
        "You compare two answers of an AI assistant to the same prompt, criterion by criterion. Which comes "
        "first means nothing, nor does length. Say tie when neither is better."
    )
    form = '{"reason": "...", "better": "answer_1", "answer_2" or "tie"}'

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.schedule = self.config.schedule
        if self.schedule == "baseline":
            self.requires = frozenset({"reference"})

    async def compare(self, first: Rollout, second: Rollout) -> Score:
        """How much `first` is better: the weighted mean of its points by criterion."""
        answers = answer_texts(first, "answer_1"), answer_texts(second, "answer_2")
        if [text for _, text in answers[0]] == [text for _, text in answers[1]]:
            return Score(0.5, reason="identical")
        names = list(self.config.criteria)
        shown = self.config.reference != "hidden" and self.schedule != "baseline"
        texts = [*task_texts(first.task, reference=shown), *answers[0], *answers[1]]
        winners = {"better": {"type": "string", "enum": list(_POINTS)}}
        ask = "By each criterion, which answer is better?"
        try:
            verdict, cost = await self.ask(names, winners, question(texts, ask, self.config.max_chars))
        except UnreadableVerdict as error:
            return error.score()
        parts = {
            name: Score(_POINTS[verdict[name]["better"]], reason=verdict[name]["reason"]) for name in names
        }
        return Score(self.weighed(parts), reason=reasons(parts), parts=parts, cost=cost)
