"""A language model sees all answers to one prompt at once and scores them against each other.

As in RULER (OpenPipe/ART): comparing is easier than grading, and a group's scores need only be right
relative to each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from rft.evaluator import GroupEvaluator
from rft.evaluators._judge import Judging, UnreadableVerdict
from rft.evaluators._judge_prompt import answer_texts, question, task_texts
from rft.types import Rollout, Score

_BEST = 10


class JudgeRanked(Judging, GroupEvaluator):
    """One call for a whole group: each answer gets 0 to 10 beside the others, mapped to 0 to 1.

    Identical answers are shown once and share a score, and the order shown depends on the texts alone, so
    that no member of a group has a favoured place. A verdict that leaves out or adds an answer is
    unreadable. The whole group must fit into the judge's context. Cannot see: how good a group is as a
    whole, so scores of different prompts do not compare; the middle of texts longer than `max_chars`; and
    what `judge` cannot see.
    """

    name = "judge_ranked"
    job = (
        "You compare several answers of an AI assistant to the same prompt, by all criteria together. Score "
        f"each from 0 (worst) to {_BEST} (best): the better of two answers gets the higher score, answers "
        "that are equally good get the same. The order shown means nothing, nor does length."
    )
    form = f'{{"reason": "...", "score": whole number from 0 to {_BEST}}}'

    async def evaluate_group(self, rollouts: Sequence[Rollout]) -> Sequence[Score]:
        own = [tuple(answer_texts(rollout)) for rollout in rollouts]
        one_of = dict(zip(own, rollouts, strict=True))
        order = sorted(one_of, key=lambda said: hashlib.sha256(repr(said).encode()).digest())
        labels = {said: f"answer_{number}" for number, said in enumerate(order, start=1)}
        texts = task_texts(rollouts[0].task, reference=self.config.reference != "hidden")
        for said, label in labels.items():
            texts += answer_texts(one_of[said], label)
        marks = {"score": {"type": "integer", "enum": list(range(_BEST + 1))}}
        ask = f"Score each of the {len(labels)} answers beside the others."
        try:
            verdict, cost = await self.ask(
                list(labels.values()), marks, question(texts, ask, self.config.max_chars)
            )
        except UnreadableVerdict as error:
            failed = error.score()
            return [failed, *[Score.failed(error.kind, error.detail, retryable=True)] * (len(rollouts) - 1)]
        found = [verdict[labels[said]] for said in own]
        scores = [Score(one["score"] / _BEST, reason=one["reason"]) for one in found]
        return [scores[0].stamped(cost=cost), *scores[1:]]  # one call, so that its cost is counted once
