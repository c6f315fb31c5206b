"""Stored rollouts come back as an evaluator saw them."""

from __future__ import annotations

import pyarrow.parquet as pq

from rft.runs.folder import RunFolder
from rft.runs.rollouts import SCHEMA
from rft.runs.stored import read_groups
from rft.secrets import Secret
from rft.types import Group, Message, Rollout, Score, Task, Turn

ASK = Task(
    "sort-1", (Message("system", "Sort."), Message("user", "2 1")), ["1", "2"], {"n": 2, "hard": False}
)
PLAIN = Task("go-on", "[1, 2,", metadata={})


def stored(tmp_path, *groups: Group) -> list[Group]:
    return read_groups(RunFolder.create(tmp_path, "sort", "").write_rollouts(3, list(groups)))


def test_what_an_evaluator_sees_comes_back(tmp_path):
    turns = (Turn((5, 6), (1, 2), (-0.5, -1.5), "stop"), Turn((8,), (3,), (-0.25,), "length"))
    rollout = Rollout(
        "0-sort-1/0",
        "0-sort-1",
        ASK,
        (*ASK.messages, Message("assistant", "1"), Message("tool", "no"), Message("assistant", "1 2")),
        turns,
        stop="length",
        rewards=(0.5, None),
        env={"moves": [1, 2]},
        weight_version=4,
        seed=1 << 61,
    )
    verdict = Score(
        0.5, reason="half", parts={"form": Score(1.0), "tone": Score.skip("?")}, evaluator="order"
    )
    (group,) = stored(tmp_path, Group("0-sort-1", ASK, [rollout], [verdict]))
    assert group.task == ASK
    assert group.rollouts == [rollout]
    (score,) = group.scores
    assert (score.value, score.reason, score.evaluator) == (0.5, "half", "order")
    assert score.parts["form"].value == 1.0 and score.parts["tone"].status == "skipped"


def test_failures_skips_and_their_reasons_come_back_without_a_number(tmp_path):
    rollouts = [Rollout(f"g/{n}", "g", ASK, ASK.messages) for n in range(3)]
    scores = [Score.failed("timeout", "no answer"), Score.skip("gold unreadable"), Score(0.0)]
    (group,) = stored(tmp_path, Group("g", ASK, rollouts, scores))
    assert [(s.status, s.value, s.reason) for s in group.scores] == [
        ("failed", None, "no answer"),
        ("skipped", None, "gold unreadable"),
        ("ok", 0.0, None),
    ]
    assert group.scores[0].failure == scores[0].failure


def test_a_plain_prompt_stays_plain_even_when_it_reads_like_json(tmp_path):
    rollout = Rollout("p/0", "p", PLAIN, (*PLAIN.messages, Message("assistant", " 3]")))
    (group,) = stored(tmp_path, Group("p", PLAIN, [rollout], [Score(1.0)]))
    assert group.task.prompt == "[1, 2," and group.rollouts[0].text == " 3]"


def test_groups_keep_their_order_and_a_file_of_an_older_version_is_read(tmp_path):
    groups = [
        Group(name, ASK, [Rollout(f"{name}/0", name, ASK, ASK.messages)], [Score(1.0)]) for name in "bac"
    ]
    path = RunFolder.create(tmp_path, "sort", "").write_rollouts(3, groups)
    assert [group.id for group in read_groups(path)] == ["b", "a", "c"]
    old = [name for name in SCHEMA.names if name not in ("fields", "env", "turn_rewards")]
    pq.write_table(pq.read_table(path, columns=old), path)
    assert read_groups(path)[0].task.metadata == {}


def test_a_secret_in_the_environments_state_is_not_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_TOKEN", 'hunter2-"quoted"')
    env = {"headers": {"Authorization": 'Bearer hunter2-"quoted"'}, "cart": [1]}
    Secret("env:SHOP_TOKEN").reveal()
    rollout = Rollout("p/0", "p", PLAIN, PLAIN.messages, env=env)
    (group,) = stored(tmp_path, Group("p", PLAIN, [rollout], [Score(1.0)]))
    assert group.rollouts[0].env == {"headers": {"Authorization": "Bearer ***"}, "cart": [1]}
