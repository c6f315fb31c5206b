"""An `@evaluation_test` function of eval-protocol, as an evaluator.

    evaluator:
      use: eval_protocol
      with: {function: "./test_quality.py:test_tone"}

The function under the decorator is called with a real `EvaluationRow`; its data sets, rollouts, runs and
thresholds are the decorator's and stay unused.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from rft.adapters._foreign import Foreign, asynchronous, library, scored
from rft.errors import ResolveError
from rft.evaluator import Evaluator, GroupEvaluator, Resolve
from rft.types import Rollout, Score


class EvalProtocol(Foreign):
    """What an eval-protocol `@evaluation_test` function gives.

    That is what it leaves in `row.evaluation_result`, valid metrics as metrics. The reference is the row's
    `ground_truth`; the task's other columns are `row.input_metadata.dataset_info`. No result, and one with
    `is_score_valid` False, are skipped; one with `error` has failed.

    Cannot carry over: mode `all`, which sees a whole data set (refused); `step_outputs`;
    `evaluation_test_kwargs`; what a live run records (`execution_metadata`, cost, `tools`).
    """

    name = "eval_protocol"
    _modes = ("pointwise",)

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.function = getattr(self.foreign, "_origin_func", self.foreign)
        mode = _mode(self.foreign)
        if not callable(self.function) or mode not in self._modes:
            told = f"has mode {mode!r}" if callable(self.function) else "is no function"
            raise ResolveError(
                f"{self.config.function!r} {told}; an @evaluation_test function of mode pointwise or "
                "groupwise is needed"
            )

    @classmethod
    def from_recipe(cls, options: Mapping[str, Any], resolve: Resolve) -> Evaluator:
        """See `Evaluator.from_recipe`. The function's own mode decides whether it compares."""
        one = Foreign(**options)
        return EvalProtocolGroup(**options) if _mode(one.foreign) == "groupwise" else cls(**options)

    async def setup(self) -> None:
        """Raises UserError without the library."""
        library("eval_protocol.models", "eval-protocol")

    def functions(self) -> Iterable[Callable[..., Any]]:
        """The function under the decorator."""
        return [self.function]

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return asynchronous(self.function)

    def evaluate(self, rollout: Rollout) -> Any:
        """The verdict, or for a coroutine function a coroutine of it."""
        judged = self.function(_row(rollout))
        return _later(judged) if inspect.isawaitable(judged) else _score(judged)


class EvalProtocolGroup(EvalProtocol, GroupEvaluator):
    """A function of mode `groupwise`, with one prompt's completions as its rows. See `EvalProtocol`."""

    _modes = ("groupwise",)

    def evaluate_group(self, rollouts: Sequence[Rollout]) -> Any:
        """The verdicts, or for a coroutine function a coroutine of them."""
        judged = self.function([_row(rollout) for rollout in rollouts])
        return _later_all(judged) if inspect.isawaitable(judged) else [_score(row) for row in judged]


def _mode(function: Any) -> str:
    return str(getattr(function, "_metainfo", {}).get("mode", "pointwise"))


def _row(rollout: Rollout) -> Any:
    models = library("eval_protocol.models", "eval-protocol")
    task = rollout.task
    return models.EvaluationRow(
        messages=[models.Message(**message.to_dict()) for message in rollout.messages],
        ground_truth=task.reference,
        input_metadata=models.InputMetadata(row_id=task.id, dataset_info=dict(task.metadata)),
        rollout_status=models.Status.rollout_finished(),
    )


async def _later(judged: Awaitable[Any]) -> Score:
    return _score(await judged)


async def _later_all(judged: Awaitable[Sequence[Any]]) -> list[Score]:
    return [_score(row) for row in await judged]


def _score(row: Any) -> Score:
    result = getattr(row, "evaluation_result", None)
    if result is None:
        return Score.skip("the function left no evaluation_result in the row")
    if result.error:
        return Score.failed("bad_response", f"the evaluation reports an error: {result.error}")
    metrics = {name: one.score for name, one in (result.metrics or {}).items() if one.is_score_valid}
    if not result.is_score_valid:
        why = result.reason or "the function marked its score as not valid"
        return Score.skip(why).stamped(metrics=metrics)
    return scored(result.score, result.reason, metrics)
