"""Rollouts against small environments: exact tokens, limits, and whose fault a bad end is."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rft.engine.base import Completion, Sampling
from rft.engine.scripted import ScriptedEngine
from rft.environment import Environment, Observation, Step
from rft.errors import EngineError, EnvironmentFailure
from rft.models.tiny import tiny_tokenizer
from rft.recipe.schema import RolloutSpec
from rft.rollout import play as play_module
from rft.rollout.conversation import ChatTemplate
from rft.rollout.play import Player, rollout_seed
from rft.types import Message, Rollout, Task

TOKENIZER = tiny_tokenizer()
TASK = Task("t", (Message("user", "Guess my number, 1 to 9."),))


class Watched(Environment):
    """Remembers its instances and whether each was closed."""

    def __init__(self, made: list[Watched], **behaviour: Any) -> None:
        self.closed = 0
        self.behaviour = behaviour
        self.number = len(made)
        made.append(self)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.secret = str(random.Random(seed).randint(1, 9))
        await self.do("reset")
        return Observation(task.prompt)

    async def step(self, action: Message) -> Step:
        await self.do("step")
        right = action.content == self.secret
        reply = () if right else (Message("user", f"Not {action.content}."),)
        return Step(
            reply, done=right, reward=float(right), metrics={"guesses": 1.0}, state={"last": action.content}
        )

    async def close(self) -> None:
        self.closed += 1
        await self.do("close")

    async def do(self, when: str) -> None:
        if action := self.behaviour.get(when):
            await action(self)


class Recording(ScriptedEngine):
    """Also remembers what it answered and how it was asked."""

    def __init__(self, answer: Any, **options: Any) -> None:
        super().__init__(TOKENIZER, answer, **options)
        self.answers: list[tuple[int, ...]] = []
        self.samplings: list[Sampling] = []

    async def generate(self, token_ids: Any, sampling: Sampling, *, adapter: str | None = None) -> Completion:
        completion = await super().generate(token_ids, sampling, adapter=adapter)
        self.answers.append(completion.token_ids)
        self.samplings.append(sampling)
        return completion


def counting_up() -> Any:
    guesses = iter(range(1, 100))
    return lambda prompt, sampling: str(next(guesses))


def player(
    engine: Any, made: list[Watched], spec: RolloutSpec | None = None, *, room: int = 10_000, **do: Any
):
    return Player(
        engine,
        ChatTemplate(TOKENIZER),
        lambda: Watched(made, **do),
        spec or RolloutSpec(max_turns=20),
        max_total_tokens=room,
    )


def play(one: Player, seed: int = 3, temperature: float = 1.0) -> Rollout:
    return asyncio.run(one.play(TASK, group_id="0-t", index=2, seed=seed, temperature=temperature))


def whole(rollout: Rollout) -> list[int]:
    return [token for turn in rollout.turns for token in (*turn.context_ids, *turn.token_ids)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    answers=st.lists(st.text(max_size=6), min_size=1, max_size=5),
    max_new_tokens=st.integers(1, 12),
    room=st.integers(60, 300),
)
def test_turns_joined_are_exactly_what_the_engine_saw_and_sampled(answers, max_new_tokens, room):
    script = iter([*answers, *["x"] * 100])
    engine = Recording(lambda prompt, sampling: next(script))
    spec = RolloutSpec(max_new_tokens=max_new_tokens, max_turns=7)
    made: list[Watched] = []
    rollout = play(player(engine, made, spec, room=room))
    seen: list[int] = []
    for turn, prompt, answer in zip(rollout.turns, engine.prompts, engine.answers, strict=True):
        seen += turn.context_ids
        assert seen == prompt
        assert turn.token_ids == answer and len(turn.logprobs) == len(answer) <= max_new_tokens
        seen += answer
    assert len(whole(rollout)) <= room
    assert len(rollout.rewards) == len(rollout.turns)
    assert made[0].closed == 1


def test_a_conversation_ends_when_the_environment_says_so():
    engine = Recording(counting_up())
    made: list[Watched] = []
    rollout = play(player(engine, made))
    guesses = int(made[0].secret)
    assert guesses > 1
    assert rollout.id == "0-t/2" and rollout.group_id == "0-t" and rollout.seed == 3
    assert rollout.stop == "env_done" and not rollout.truncated
    assert rollout.rewards == (0.0,) * (guesses - 1) + (1.0,)
    assert [message.role for message in rollout.messages] == ["user", "assistant"] * guesses
    assert rollout.messages[-1].content == rollout.text == made[0].secret
    assert rollout.env == {"last": made[0].secret} and rollout.metrics == {"guesses": 1.0}
    assert [sampling.seed for sampling in engine.samplings] == [3 + turn for turn in range(guesses)]


def test_one_right_answer_is_an_end_of_its_own():
    rollout = play(player(Recording(lambda *_: str(random.Random(3).randint(1, 9))), []))
    assert (rollout.stop, len(rollout.turns)) == ("eos", 1)


def test_reaching_the_turn_limit_is_truncation():
    rollout = play(player(Recording(lambda *_: "0"), [], RolloutSpec(max_turns=3)))
    assert (rollout.stop, rollout.truncated, len(rollout.turns)) == ("max_turns", True, 3)


def test_a_turn_cut_by_its_token_limit_never_reaches_the_environment():
    steps = []

    async def stepped(environment: Watched) -> None:
        steps.append(environment)

    rollout = play(player(Recording(lambda *_: "too long"), [], RolloutSpec(max_new_tokens=3), step=stepped))
    assert (rollout.stop, rollout.text, rollout.rewards, steps) == ("length", "too", (None,), [])
    assert rollout.turns[0].finish_reason == "length"


def test_a_conversation_that_fills_its_room_is_truncated_before_the_next_turn():
    engine = Recording(lambda *_: "0")
    opening = len(ChatTemplate(TOKENIZER).opening(TASK.prompt))
    rollout = play(player(engine, [], room=opening + 10))  # the reply to the first guess does not fit
    assert (rollout.stop, len(rollout.turns), len(engine.prompts)) == ("length", 1, 1)


def test_sampling_is_the_recipes_and_greedy_takes_no_seed():
    spec = RolloutSpec(top_p=0.9, top_k=7, min_p=0.1, stop=["\n"], sampling={"min_tokens": 1}, max_turns=1)
    engine = Recording(lambda *_: "0")
    play(player(engine, [], spec), temperature=0.5)
    play(player(engine, [], spec), temperature=0.0)
    assert engine.samplings[0] == Sampling(256, 0.5, 0.9, 7, 0.1, ("\n",), seed=3, extra={"min_tokens": 1})
    assert engine.samplings[1].seed is None


def test_the_stop_text_is_hidden_from_the_environment_unless_asked_for():
    for shown, sampling in (("5", {}), ("5<end>", {"include_stop_str_in_output": True})):
        spec = RolloutSpec(stop=["<end>"], max_turns=1, sampling=sampling)
        rollout = play(player(Recording(lambda *_: "5<end>"), [], spec))
        assert rollout.text == shown
        assert TOKENIZER.decode(rollout.turns[0].token_ids) == "5<end><|im_end|>"


# --- whose fault ------------------------------------------------------------------------------------


def failing(error: Exception, times: int) -> Any:
    async def fail(environment: Watched) -> None:
        if environment.number < times:
            raise error

    return fail


@pytest.mark.parametrize("when", ["reset", "step"])
def test_infrastructure_that_breaks_once_costs_a_second_try(when):
    made: list[Watched] = []
    rollout = play(
        player(Recording(lambda *_: "0"), made, **{when: failing(EnvironmentFailure("no sandbox"), 1)})
    )
    assert rollout.stop == "max_turns"
    assert [environment.closed for environment in made] == [1, 1]


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        (EnvironmentFailure("no sandbox"), "sandbox", 2),
        (EnvironmentFailure("slow", kind="server"), "server", 2),
        (ConnectionResetError("gone"), "transport", 2),
        (TimeoutError("socket"), "transport", 2),
        (KeyError("fee"), "bug", 1),
    ],
)
def test_what_breaks_for_good_says_what_kind_it_is(error, kind, tries):
    made: list[Watched] = []
    with pytest.raises(EnvironmentFailure) as failure:
        play(player(Recording(lambda *_: "0"), made, step=failing(error, 9)))
    assert failure.value.kind == kind
    assert [environment.closed for environment in made] == [1] * tries


def test_a_bug_in_an_environment_is_placed():
    with pytest.raises(EnvironmentFailure, match=r"KeyError: 'fee' \(test_play.py:\d+\)"):
        play(player(Recording(lambda *_: "0"), [], reset=failing(KeyError("fee"), 9)))


def test_a_rollout_over_its_time_is_a_failure_that_is_not_tried_again():
    async def hang(environment: Watched) -> None:
        await asyncio.sleep(60)

    made: list[Watched] = []
    with pytest.raises(EnvironmentFailure, match=r"took over 0\.05 s \(rollout\.timeout_s\)") as failure:
        play(player(Recording(lambda *_: "0"), made, RolloutSpec(timeout_s=0.05), step=hang))
    assert failure.value.kind == "timeout"
    assert [environment.closed for environment in made] == [1]


def test_cancelling_closes_the_environment():
    made: list[Watched] = []

    async def cancelled() -> None:
        one = player(Recording(lambda *_: "0", delay_s=60), made)
        task = asyncio.create_task(one.play(TASK, group_id="g", index=0, seed=0, temperature=1.0))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert [environment.closed for environment in made] == [1]


def test_an_environment_that_cannot_close_does_not_cost_the_rollout(caplog, monkeypatch):
    async def hang(environment: Watched) -> None:
        await asyncio.sleep(60)

    caplog.set_level("WARNING", logger="rft")
    monkeypatch.setattr(play_module, "_CLOSE_S", 0.01)
    for close in (failing(OSError("busy"), 9), hang):
        rollout = play(player(Recording(lambda *_: "0"), [], RolloutSpec(max_turns=1), close=close))
        assert rollout.stop == "max_turns"
    assert "did not close: OSError: busy" in caplog.text and "TimeoutError" in caplog.text


def test_a_dead_engine_is_nobodys_to_retry():
    class Dead(Recording):
        async def generate(self, *_: Any, **__: Any) -> Completion:
            raise EngineError("the device is gone")

    made: list[Watched] = []
    with pytest.raises(EngineError):
        play(player(Dead(lambda *_: ""), made))
    assert [environment.closed for environment in made] == [1]


def test_seeds_differ_between_places_and_repeat_for_the_same():
    places = [
        (seed, step, f"{group}-t", index)
        for seed in (0, 1)
        for step in (0, 1)
        for group in (0, 1)
        for index in (0, 1)
    ]
    seeds = [rollout_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert seeds == [rollout_seed(*place) for place in places]
    assert all(0 <= seed < 2**62 for seed in seeds)
