"""A reward function written for TRL's trainers, as an evaluator.

    evaluator:
      use: trl
      with:
        function: ./rewards.py:accuracy
        reference: solution

The function is called as `GRPOTrainer._calculate_rewards` (TRL 1.16) calls it, with lists: `prompts`,
`completions`, `completion_ids`, every column of the row, `log_extra` and `log_metric`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from rft.adapters._foreign import Foreign, ForeignConfig, answered, asynchronous, called, columns, required
from rft.errors import ResolveError
from rft.evaluator import Evaluator, GroupEvaluator, Resolve, Verdict
from rft.types import Rollout, Score

_GIVEN = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}


class _Config(ForeignConfig):
    group: bool = False
    """Call it once with all completions of one prompt, for functions that compare them."""


class TRL(Foreign):
    """What a TRL reward function gives, one completion in each call.

    So a completion that makes the function raise costs no other its score. A prompt in messages makes
    `completions` lists of messages, as in TRL; a plain one makes them texts. None is skipped. What was logged
    with `log_metric` becomes metrics of the score.

    Cannot carry over: `trainer_state` is None and there are no `environments`; columns given to `log_extra`
    are dropped; reward models (use `reward_model`); `reward_weights` (use `weighted`, which masks a sample
    when a part has no number, where TRL's sum takes None for 0).
    """

    Config = _Config
    name = "trl"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        if not callable(self.foreign):
            raise ResolveError(f"{self.config.function!r} is no function; a TRL reward function is needed")
        needed = required(self.foreign, _GIVEN)
        self.requires = frozenset("reference" if n == self.config.reference else n for n in needed)

    @classmethod
    def from_recipe(cls, options: Mapping[str, Any], resolve: Resolve) -> Evaluator:
        """See `Evaluator.from_recipe`; `group: true` makes one that compares."""
        return TRLGroup(**options) if options.get("group") is True else cls(**options)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return asynchronous(self.foreign)

    def evaluate(self, rollout: Rollout) -> Any:
        """The verdict, or for a coroutine function a coroutine of it."""
        scores = self._ask([rollout])
        return _only(scores) if inspect.isawaitable(scores) else scores[0]

    def _ask(self, rollouts: Sequence[Rollout]) -> Any:
        """One score for each rollout, in order; awaitable when the function is."""
        metrics: dict[str, float] = {}
        rows = [columns(rollout, self.config.reference) for rollout in rollouts]
        names = dict.fromkeys(name for row in rows for name in row)
        given: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
        given |= {
            "prompts": [_prompt(rollout) for rollout in rollouts],
            "completions": [_completion(rollout) for rollout in rollouts],
            "completion_ids": [_completion_ids(rollout) for rollout in rollouts],
            "trainer_state": None,
            "log_extra": lambda column, values: None,
            "log_metric": lambda name, value: metrics.__setitem__(str(name), float(value)),
        }
        rewards = called(self.foreign, given)
        if inspect.isawaitable(rewards):
            return _later(rewards, rollouts, metrics)
        return _scores(rewards, rollouts, metrics)


class TRLGroup(TRL, GroupEvaluator):
    """All completions of one prompt in each call. See `TRL` for what it cannot carry over."""

    def evaluate_group(self, rollouts: Sequence[Rollout]) -> Any:
        """The verdicts, or for a coroutine function a coroutine of them."""
        return self._ask(rollouts)


async def _only(scores: Awaitable[list[Verdict]]) -> Verdict:
    return (await scores)[0]


async def _later(
    rewards: Awaitable[Any], rollouts: Sequence[Rollout], metrics: dict[str, float]
) -> list[Score]:
    return _scores(await rewards, rollouts, metrics)


def _scores(rewards: Any, rollouts: Sequence[Rollout], metrics: Mapping[str, float]) -> list[Score]:
    rewards = list(rewards)
    if len(rewards) != len(rollouts):
        raise ValueError(
            f"the reward function returned {len(rewards)} rewards for {len(rollouts)} completions"
        )
    return [_score(reward, metrics) for reward in rewards]


def _score(reward: Any, metrics: Mapping[str, float]) -> Any:
    if reward is None:
        return Score.skip("the reward function returned None").stamped(metrics=metrics)
    return {**metrics, "score": reward}  # the runner says what is wrong with one that is no finite number


def _prompt(rollout: Rollout) -> Any:
    prompt = rollout.task.prompt
    return prompt if isinstance(prompt, str) else [message.to_dict() for message in prompt]


def _completion(rollout: Rollout) -> Any:
    if isinstance(rollout.task.prompt, str):
        return rollout.text
    return [message.to_dict() for message in answered(rollout)]


def _completion_ids(rollout: Rollout) -> list[int]:
    """Everything after the prompt, tool results included; empty for a rollout that was not sampled here."""
    ids: list[int] = []
    for i, turn in enumerate(rollout.turns):
        ids += [*(turn.context_ids if i else ()), *turn.token_ids]
    return ids
