"""One rollout: a task goes through an environment, the policy answers, its tokens are kept as sampled.

The loop is the same whoever answers; a `Voice` is the policy's side of one conversation. `Player` speaks
through an engine, in tokens; `rft.rollout.endpoint.EndpointPlayer` through somebody's chat API, in messages.

Whose fault it is when a rollout does not end well: a limit reached is truncation; infrastructure that broke
is an `EnvironmentFailure`, tried once more; any other exception in an environment's code is its author's
mistake and becomes a failure of kind "bug"; an engine that died ends everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from rft.engine.base import Engine, Sampling
from rft.environment import Environment
from rft.errors import EnvironmentFailure
from rft.recipe.schema import RolloutSpec
from rft.rollout.conversation import ChatTemplate, Conversation
from rft.types import Message, Rollout, StopReason, Task, Turn

log = logging.getLogger("rft")

T = TypeVar("T")

_SEED_BITS = 62  # vLLM takes a signed 64-bit seed
_CLOSE_S = 30.0
_FINAL = ("timeout", "bug")
"""Kinds not tried again: a rollout that used up its time would use it twice, and wrong code does not heal."""


class Voice(Protocol):
    """The policy's side of one conversation."""

    turns: list[Turn]
    """What was sampled so far; stays empty where tokens are not known."""
    metrics: dict[str, float]

    def open(self, messages: str | Sequence[Message], tools: Sequence[Mapping[str, object]]) -> None:
        """Takes in what the environment says first."""
        ...

    async def say(self, seed: int, temperature: float) -> tuple[Message, str] | None:
        """The next answer and its finish reason, "stop" or "length"; None when there is no room for one."""
        ...

    def hear(self, said: Message, replies: Sequence[Message]) -> None:
        """Takes in the environment's reply to `said`."""
        ...


MyTurn = Callable[[], Awaitable[None]]
"""Awaited before each of a conversation's turns; see `rft.rollout.lockstep`."""


async def at_once() -> None:
    """A turn that nobody else is waited for."""


class AnyPlayer:
    """Plays tasks to their end with whatever voice a subclass gives."""

    make_environment: Callable[[], Environment]
    spec: RolloutSpec

    @property
    def lockstep(self) -> bool:
        """Whether conversations shall take their turns together."""
        return False

    def voice(self) -> Voice:
        """A fresh side of one conversation."""
        raise NotImplementedError

    def held(self) -> AbstractContextManager[None]:
        """While held, requests are taken and none is begun: first requests then start as one batch."""
        raise NotImplementedError

    async def play(
        self,
        task: Task,
        *,
        group_id: str,
        index: int,
        seed: int,
        temperature: float,
        my_turn: MyTurn = at_once,
    ) -> Rollout:
        """Plays one rollout to its end. Reaching a limit is truncation, not failure.

        Raises:
            EnvironmentFailure: the environment's infrastructure broke, twice; it took too long; or its code
                is wrong. `kind` says which.
            EngineError: the engine died.
            EndpointError: an endpoint gave no answer.
        """
        try:
            return await self._play_once(task, group_id, index, seed, temperature, my_turn)
        except EnvironmentFailure as failure:
            if failure.kind in _FINAL:
                raise
            return await self._play_once(task, group_id, index, seed, temperature, my_turn)

    async def _play_once(
        self, task: Task, group_id: str, index: int, seed: int, temperature: float, my_turn: MyTurn
    ) -> Rollout:
        environment = self.make_environment()
        try:
            # Not `wait_for`, which runs its argument as another task: `collect` counts on every rollout
            # making its first request before it waits for anything.
            async with asyncio.timeout(self.spec.timeout_s):
                return await self._converse(environment, task, group_id, index, seed, temperature, my_turn)
        except TimeoutError as error:
            took = f"a rollout of task {task.id} took over {self.spec.timeout_s:g} s (rollout.timeout_s)"
            raise EnvironmentFailure(took, kind="timeout") from error
        finally:
            await _close(environment)

    async def _converse(
        self,
        environment: Environment,
        task: Task,
        group_id: str,
        index: int,
        seed: int,
        temperature: float,
        my_turn: MyTurn,
    ) -> Rollout:
        observation = await _answer(environment.reset(task, seed=seed))
        voice = self.voice()
        voice.open(observation.messages, observation.tools)
        opening = observation.messages
        messages = [Message("user", opening)] if isinstance(opening, str) else list(opening)
        rewards: list[float | None] = []
        metrics: dict[str, float] = {}
        state: dict[str, object] = {}
        stop: StopReason = "max_turns"
        for number in range(self.spec.max_turns):
            await my_turn()
            answer = await voice.say(seed + number, temperature)
            if answer is None:
                stop = "length"
                break
            said, finish_reason = answer
            messages.append(said)
            if finish_reason == "length":
                rewards.append(None)  # the environment never saw this turn
                stop = "length"
                break
            step = await _answer(environment.step(said))
            rewards.append(step.reward)
            metrics |= step.metrics
            state |= step.state
            messages += step.messages
            if step.done or step.truncated:
                stop = "max_turns" if step.truncated else ("eos" if number == 0 else "env_done")
                break
            voice.hear(said, step.messages)
        return Rollout(
            id=f"{group_id}/{index}",
            group_id=group_id,
            task=task,
            messages=tuple(messages),
            turns=tuple(voice.turns),
            stop=stop,
            rewards=tuple(rewards),
            env=state,
            metrics=metrics | voice.metrics,
            weight_version=max((span[0] for turn in voice.turns for span in turn.weight_versions), default=0),
            seed=seed,
        )


@dataclass(frozen=True)
class Player(AnyPlayer):
    """What every rollout of a run shares, answered by an engine."""

    engine: Engine
    template: ChatTemplate
    make_environment: Callable[[], Environment]
    spec: RolloutSpec
    max_total_tokens: int
    """Prompt and all turns together."""
    adapter: str | None = None
    """None for the policy; "base" for the weights it started from, where an adapter is trained."""

    @property
    def lockstep(self) -> bool:
        """See `AnyPlayer.lockstep`."""
        return self.spec.lockstep

    def voice(self) -> Voice:
        """See `AnyPlayer.voice`."""
        return _EngineVoice(self)

    def held(self) -> AbstractContextManager[None]:
        """See `AnyPlayer.held`."""
        return self.engine.paused()


class _EngineVoice:
    """Speaks in tokens, which are kept as they were sampled."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._conversation = Conversation(player.template)
        self._context: tuple[int, ...] = ()
        self.turns: list[Turn] = []
        self.metrics: dict[str, float] = {}

    def open(self, messages: str | Sequence[Message], tools: Sequence[Mapping[str, object]]) -> None:
        self._context = self._conversation.open(messages, tools)

    async def say(self, seed: int, temperature: float) -> tuple[Message, str] | None:
        player = self._player
        room = min(player.spec.max_new_tokens, player.max_total_tokens - len(self._conversation.ids))
        if room <= 0:
            return None
        completion = await player.engine.generate(
            self._conversation.ids, sampling_for(player.spec, room, seed, temperature), adapter=player.adapter
        )
        self.turns.append(
            Turn(
                self._context,
                completion.token_ids,
                completion.logprobs,
                completion.finish_reason,
                completion.weight_versions,
            )
        )
        said = self._conversation.sampled(completion.token_ids, _hidden_stop(player.spec))
        return said, completion.finish_reason

    def hear(self, said: Message, replies: Sequence[Message]) -> None:
        self._context = self._conversation.append(replies)


def sampling_for(spec: RolloutSpec, max_tokens: int, seed: int, temperature: float) -> Sampling:
    """One turn's sampling, as the recipe says."""
    return Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        min_p=spec.min_p,
        stop=tuple(spec.stop),
        # Greedy decoding draws nothing; a seed would only slow the sampler down.
        seed=seed if temperature > 0 else None,
        extra=dict(spec.sampling),
    )


def _hidden_stop(spec: RolloutSpec) -> Sequence[str]:
    return () if spec.sampling.get("include_stop_str_in_output") else spec.stop


async def _answer(answer: Awaitable[T]) -> T:
    """What an environment answers; what it raises by accident becomes a failure that says where."""
    try:
        return await answer
    except EnvironmentFailure:
        raise
    except (TimeoutError, ConnectionError) as error:
        raise EnvironmentFailure(f"{type(error).__name__}: {error}", kind="transport") from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        raise EnvironmentFailure(f"{type(error).__name__}: {error} ({where})", kind="bug") from error


async def _close(environment: Environment) -> None:
    """Always called, and bounded: a rollout is not lost with an environment that will not go."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await environment.close()
    except Exception as error:
        log.warning("an environment did not close: %s: %s", type(error).__name__, error)


def rollout_seed(*parts: object) -> int:
    """A seed from what makes a rollout itself: run seed, step, group, number in its group."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)
