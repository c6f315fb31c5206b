"""The contract for evaluators: a finished rollout goes in, a score comes out.

    class Near(Evaluator):
        requires = frozenset({"reference"})

        async def evaluate(self, rollout):
            try:
                return 1 / (1 + abs(float(rollout.text) - float(rollout.task.reference)))
            except ValueError:
                return Score(0.0, reason="not a number")

    @evaluator
    def exact(text, reference):
        return text.strip() == reference

Whose fault decides what happens. The model's fault is a low score with a reason. The instrument's fault
(raise `EvaluatorError`, or return `Score.skip`) is masked: no number, no gradient. Any other exception is
the author's bug: masked too, and the run stops after a few.

`base` is the contract, `kinds` those that see several rollouts at once, `function` the decorator, `limits`
and `cases` what an evaluator says about itself, `code` the fingerprint.
"""

from rft.evaluator.base import Evaluator, Resolve, Verdict
from rft.evaluator.cases import Case, load_cases
from rft.evaluator.function import FunctionEvaluator, evaluator
from rft.evaluator.golden import case_rollouts, own_cases, with_options
from rft.evaluator.kinds import BatchEvaluator, GroupEvaluator, PairwiseEvaluator
from rft.evaluator.limits import Limits

__all__ = [
    "BatchEvaluator",
    "Case",
    "Evaluator",
    "FunctionEvaluator",
    "GroupEvaluator",
    "Limits",
    "PairwiseEvaluator",
    "Resolve",
    "Verdict",
    "case_rollouts",
    "evaluator",
    "load_cases",
    "own_cases",
    "with_options",
]
