import json

import pytest

from rft.errors import RunError
from rft.runs.folder import RunFolder
from rft.runs.rollouts import read_rollouts
from rft.types import Group, Message, Rollout, Score, Task, Turn

ASK = Task("sort-1", (Message("user", "Sort: 2 1"),), reference="1 2", metadata={"n": 2})


def group() -> Group:
    turn = Turn((5, 6, 7), (1, 2), (-0.5, -1.5), "stop", ((4, 0, 2),))
    told = Turn((8,), (3,), (-0.25,), "stop", ((4, 0, 1),))
    messages = (*ASK.messages, Message("assistant", "1 2"))
    good = Rollout("sort-1/0", "sort-1", ASK, messages, (turn, told), weight_version=4, seed=11)
    lost = Rollout("sort-1/1", "sort-1", ASK, ASK.messages, (turn,), stop="length", weight_version=4, seed=12)
    verdict = Score(
        1.0,
        reason="both right",
        metrics={"exact": 1.0},
        parts={"form": Score(0.5)},
        evaluator="order",
        fingerprint="f1",
    )
    return Group("sort-1", ASK, [good, lost], [verdict, Score.failed("timeout", "no answer within 30 s")])


def test_a_rollout_comes_back_with_its_tokens_and_its_verdict(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    path = run.write_rollouts(12, [group()])
    assert path == run.path / "rollouts" / "step-000012.parquet"
    good, lost = read_rollouts(path)
    assert good["token_ids"] == [5, 6, 7, 1, 2, 8, 3]
    assert good["sampled"] == [False, False, False, True, True, False, True]
    assert good["logprobs"] == [None, None, None, -0.5, -1.5, None, -0.25]
    assert (good["step"], good["group_id"], good["weight_version"], good["seed"]) == (12, "sort-1", 4, 11)
    assert (good["reward"], good["status"], good["reason"]) == (1.0, "ok", "both right")
    assert (good["evaluator"], good["fingerprint"]) == ("order", "f1")
    assert json.loads(good["parts"]) == {"form": 0.5}
    assert json.loads(good["messages"])[-1] == {"role": "assistant", "content": "1 2"}
    assert json.loads(good["reference"]) == "1 2"
    assert lost["reward"] is None
    assert (lost["status"], lost["failure_kind"], lost["stop"]) == ("failed", "timeout", "length")
    assert lost["reason"] == "no answer within 30 s"


def test_held_out_answers_do_not_overwrite_a_steps_rollouts(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    assert run.write_rollouts(12, [group()]) != run.write_rollouts(12, [group()], split="heldout")


def test_a_step_without_rollouts_has_the_same_columns(tmp_path):
    import pyarrow.parquet as pq

    run = RunFolder.create(tmp_path, "sort", "")
    assert pq.read_schema(run.write_rollouts(1, [])) == pq.read_schema(run.write_rollouts(2, [group()]))


def test_a_file_that_cannot_be_written_is_a_user_error(tmp_path):
    run = RunFolder.create(tmp_path, "sort", "")
    (run.path / "rollouts").rmdir()
    (run.path / "rollouts").write_text("in the way")
    with pytest.raises(RunError, match="rollouts of earlier steps are kept"):
        run.write_rollouts(1, [group()])


def test_a_damaged_file_is_a_user_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(RunError, match="cannot be read"):
        read_rollouts(tmp_path / "a.parquet")
