"""Groups as text: all that training and writing down need comes back as it was."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from rft.rollout.collect import Asked
from rft.rollout.stored import asked_from_text, asked_to_text, group_from_text, group_to_text
from rft.types import Cost, Group, Message, Rollout, Score, Task, Turn

TASKS = [Task(f"t{index}", (Message("user", "?"),), reference={"not": {"json"}}) for index in range(3)]

finite = st.floats(allow_nan=False, allow_infinity=False)
scores = st.one_of(
    st.builds(
        Score,
        finite,
        reason=st.none() | st.text(),
        metrics=st.dictionaries(st.text(max_size=3), finite, max_size=2),
        parts=st.dictionaries(st.sampled_from("ab"), st.builds(Score, finite), max_size=2),
        turn_values=st.none() | st.tuples(finite, finite),
        cost=st.builds(Cost, usd=finite, calls=st.integers(0, 9)),
        latency_s=finite,
        cached=st.booleans(),
    ),
    st.builds(Score.skip, st.text()),
    st.builds(Score.failed, st.just("timeout"), st.text(), retry_after_s=st.none() | finite),
)
turns = st.builds(
    lambda context, sampled, reason: Turn(
        tuple(context),
        tuple(token for token, _ in sampled),
        tuple(logprob for _, logprob in sampled),
        reason,
        ((3, 0, len(sampled)),),
    ),
    st.lists(st.integers(0, 99), max_size=3),
    st.lists(st.tuples(st.integers(0, 99), st.floats(-90, 0) | st.just(-math.inf)), max_size=3),
    st.sampled_from(["stop", "length"]),
)


def rollout_of(task: Task, place: int, played: list[Turn]) -> Rollout:
    said = Message("assistant", "é\n", tool_calls=({"id": "1", "function": {"name": "f"}},))
    return Rollout(
        f"g/{place}",
        "g",
        task,
        (*task.messages, said, Message("tool", "no", tool_call_id="1")),
        tuple(played),
        "env_done",
        (None, 0.1),
        {"won": [1, 2]},
        {"guesses": 0.1},
        3,
        12345678901234567,
    )


@given(st.integers(0, 2), st.lists(st.tuples(st.lists(turns, max_size=2), scores), min_size=1, max_size=3))
def test_a_group_comes_back_as_it_was(number, members):
    task = TASKS[number]
    rollouts = [rollout_of(task, place, played) for place, (played, _) in enumerate(members)]
    group = Group("4-t", task, rollouts, [score for _, score in members])
    text = group_to_text(group, TASKS.index)
    assert group_from_text(text, TASKS.__getitem__) == group


@given(st.dictionaries(st.integers(0, 7), st.tuples(st.lists(turns, max_size=2), scores), max_size=3))
def test_a_cut_group_comes_back_with_its_finished_members(members):
    task = TASKS[1]
    done = {index: (rollout_of(task, index, played), score) for index, (played, score) in members.items()}
    asked = Asked(5, task, (7, 3), done)
    assert asked_from_text(asked_to_text(asked, TASKS.index), TASKS.__getitem__) == asked


def test_an_unknown_log_probability_stays_unknown():
    turn = Turn((1,), (2,), (math.nan,), "stop")
    group = Group("g", TASKS[0], [rollout_of(TASKS[0], 0, [turn])], [Score(1.0)])
    (rollout,) = group_from_text(group_to_text(group, TASKS.index), TASKS.__getitem__).rollouts
    assert math.isnan(rollout.turns[0].logprobs[0])


def test_an_environments_credentials_and_what_is_no_json_are_not_kept_as_they_are(monkeypatch):
    monkeypatch.setenv("SHOP_API_KEY", "sk-very-secret")
    task = TASKS[0]
    env = {"key": "sk-very-secret", "handle": object(), "seen": {1}}
    rollout = Rollout("g/0", "g", task, task.messages, env=env)
    text = group_to_text(Group("g", task, [rollout], [Score(1.0)]), TASKS.index)
    assert "sk-very-secret" not in text
    kept = json.loads(text)["members"][0]["rollout"]["env"]
    assert kept["key"] == "***" and kept["seen"] == [1]
