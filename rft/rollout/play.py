"""One rollout: a task goes through an environment, the policy answers, the tokens are kept as sampled."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from rft.engine.base import Engine, Sampling
from rft.environment import Environment
from rft.errors import EnvironmentFailure
from rft.recipe.schema import RolloutSpec
from rft.rollout.conversation import ChatTemplate, Conversation
from rft.types import Message, Rollout, StopReason, Task, Turn

_SEED_BITS = 62  # vLLM takes a signed 64-bit seed


@dataclass(frozen=True)
class Player:
    """What every rollout of a run shares."""

    engine: Engine
    template: ChatTemplate
    make_environment: Callable[[], Environment]
    spec: RolloutSpec
    max_total_tokens: int
    """Prompt and all turns together."""
    adapter: str | None = None
    """None for the policy; "base" for the weights it started from, where an adapter is trained."""

    async def play(self, task: Task, *, group_id: str, index: int, seed: int, temperature: float) -> Rollout:
        """Plays one rollout to its end. Reaching a limit is truncation, not failure.

        Raises:
            EnvironmentFailure: the environment's infrastructure broke, twice.
            EngineError: the engine died.
        """
        try:
            return await self._play_once(task, group_id, index, seed, temperature)
        except EnvironmentFailure:
            return await self._play_once(task, group_id, index, seed, temperature)

    async def _play_once(self, task: Task, group_id: str, index: int, seed: int, temperature: float) -> Rollout:
        environment = self.make_environment()
        try:
            return await asyncio.wait_for(
                self._converse(environment, task, group_id, index, seed, temperature), self.spec.timeout_s
            )
        except TimeoutError as error:
            raise EnvironmentFailure(f"a rollout of task {task.id} took over {self.spec.timeout_s:g} s") from error
        finally:
            await environment.close()

    async def _converse(
        self, environment: Environment, task: Task, group_id: str, index: int, seed: int, temperature: float
    ) -> Rollout:
        observation = await environment.reset(task, seed=seed)
        conversation = Conversation(self.template)
        context = conversation.open(observation.messages, observation.tools)
        opening = observation.messages
        messages = [Message("user", opening)] if isinstance(opening, str) else list(opening)
        turns: list[Turn] = []
        rewards: list[float | None] = []
        metrics: dict[str, float] = {}
        state: dict[str, object] = {}
        stop: StopReason = "max_turns"
        for number in range(self.spec.max_turns):
            room = min(self.spec.max_new_tokens, self.max_total_tokens - len(conversation.ids))
            if room <= 0:
                stop = "length"
                break
            completion = await self.engine.generate(
                conversation.ids, self._sampling(room, seed + number, temperature), adapter=self.adapter
            )
            said = conversation.sampled(completion.token_ids)
            messages.append(said)
            turns.append(
                Turn(
                    context, completion.token_ids, completion.logprobs, completion.finish_reason, completion.weight_versions
                )
            )
            if completion.finish_reason == "length":
                stop = "length"
                break
            step = await environment.step(said)
            rewards.append(step.reward)
            metrics |= step.metrics
            state |= step.state
            messages += step.messages
            if step.done or step.truncated:
                stop = "max_turns" if step.truncated else ("eos" if number == 0 else "env_done")
                break
            context = conversation.append(said, step.messages)
        return Rollout(
            id=f"{group_id}/{index}",
            group_id=group_id,
            task=task,
            messages=tuple(messages),
            turns=tuple(turns),
            stop=stop,
            rewards=tuple(rewards),
            env=state,
            metrics=metrics,
            weight_version=max((span[0] for turn in turns for span in turn.weight_versions), default=0),
            seed=seed,
        )

    def _sampling(self, max_tokens: int, seed: int, temperature: float) -> Sampling:
        spec = self.spec
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


def rollout_seed(*parts: object) -> int:
    """A seed from what makes a rollout itself: run seed, step, task id, number in its group."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)
