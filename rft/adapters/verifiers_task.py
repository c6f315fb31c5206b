"""A task of verifiers 0.3 or later, with its `@reward` and `@metric` methods, as an evaluator.

    evaluator:
      use: verifiers
      with: {function: "./tasks.py:Addition"}

The row becomes the task's data (its fields by name), the rollout becomes a trace, and `Task.score` runs on
it. A reward that scoring left at None has no number, where `Trace.reward` would sum over it as if it were 0.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

from rft.adapters._foreign import Foreign, columns, library
from rft.errors import ResolveError
from rft.types import Message, Rollout, Score


class VerifiersTask(Foreign):
    """The task's weighted sum of rewards; rewards and metrics are metrics of the score.

    Cannot carry over: rewards and judges that need a live runtime (refused); `setup` and `finalize`; the
    task's tools, limits and images; token ids and log-probabilities in the trace.
    """

    name = "verifiers"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        if not is_task(self.foreign):
            raise ResolveError(f"{self.config.function!r} is no Task class of verifiers")
        runtime = [f.__name__ for f in self.functions() if _needs_runtime(f)]
        if runtime:
            raise ResolveError(
                f"{self.config.function!r}: {', '.join(runtime)} needs the sandbox of a live run (runtime), "
                "which a finished rollout no longer has"
            )

    async def setup(self) -> None:
        """Raises UserError without the library."""
        library("verifiers.v1.trace", "verifiers")

    def functions(self) -> Iterable[Callable[..., Any]]:
        """The task's methods that verifiers calls to score, its class for the rest."""
        marked = [
            f for _, f in inspect.getmembers(self.foreign, inspect.isfunction) if _is_reward_or_metric(f)
        ]
        return sorted(marked, key=lambda f: f.__name__)

    async def evaluate(self, rollout: Rollout) -> Any:
        """Runs `Task.score` on the rollout as a trace. Raises what its methods raise."""
        task = self.foreign(_data(self.foreign, rollout, self.config.reference))
        trace = _trace(task, rollout)
        try:
            await task.score(trace)
        except Exception as error:  # verifiers wraps what a reward raised; the cause says whose fault it is
            raise error.__cause__ or error from None
        metrics = {name: value for name, value in trace.metrics.items() if value is not None}
        metrics |= {name: reward.score for name, reward in trace.rewards.items() if reward is not None}
        missing = [name for name, reward in trace.rewards.items() if reward is None]
        if missing or not trace.rewards:
            what = missing[0] if missing else "the task"
            return Score.skip(f"{what} gave no reward").stamped(metrics=metrics)
        return {**metrics, "score": math.fsum(reward.value for reward in trace.rewards.values())}


def is_task(thing: Any) -> bool:
    """Whether it is a Task class of verifiers, by what it has."""
    return isinstance(thing, type) and hasattr(thing, "data_type") and hasattr(thing, "score")


def _is_reward_or_metric(function: Any) -> bool:
    return bool(getattr(function, "reward", False) or getattr(function, "metric", False))


def _needs_runtime(function: Callable[..., Any]) -> bool:
    runtime = inspect.signature(function).parameters.get("runtime")
    return runtime is not None and runtime.default is runtime.empty


def _data(task: Any, rollout: Rollout, reference: str) -> Any:
    """The task's data: the row's columns that it declares, and the prompt. A wrong row raises."""
    kind = task.data_type()
    row = {name: value for name, value in columns(rollout, reference).items() if name in kind.model_fields}
    prompt = rollout.task.prompt
    given = prompt if isinstance(prompt, str) else [_message(message) for message in prompt]
    return kind(**{**row, "prompt": given})


def _trace(task: Any, rollout: Rollout) -> Any:
    trace = library("verifiers.v1.trace", "verifiers")
    graph = library("verifiers.v1.graph", "verifiers")
    asked = len(rollout.task.messages)
    nodes = [
        graph.MessageNode(
            parent=i - 1 if i else None,
            message=_message(message),
            sampled=i >= asked and message.role == "assistant",
        )
        for i, message in enumerate(rollout.messages)
    ]
    return trace.Trace(
        task=trace.TraceTask(type=type(task).__name__, data=task.data),
        agent=trace.AgentInfo(config=trace.WireAgentConfig()),
        nodes=nodes,
        is_completed=True,
    )


def _message(message: Message) -> dict[str, Any]:
    """In verifiers' form, where a tool call's name and arguments stand beside its id."""
    raw = message.to_dict()
    if message.tool_calls:
        raw["tool_calls"] = [
            {"id": call.get("id", ""), **call.get("function", {})} for call in message.tool_calls
        ]
    return raw
