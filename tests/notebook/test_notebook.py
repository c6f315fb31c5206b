"""Sampling from models and reading what runs have stored, as a notebook does."""

from __future__ import annotations

import asyncio

import pytest

import rft.contestant
from rft import Message, Rollout, Score, Task
from rft.engine.scripted import ScriptedEngine
from rft.errors import RunError, UserError
from rft.notebook import load_rollouts, preview, sample
from rft.recipe.load import recipe_from
from rft.runs.folder import RunFolder
from rft.testing import FakeAPI, Reply
from rft.testing.fake_api import chat
from rft.types import Group, Turn

ROWS = [
    {"prompt": "2+2?", "reference": "4", "id": "four", "unit": "apples"},
    {"prompt": "3+3?", "reference": "6", "id": "six"},
]


@pytest.fixture
def scripted(monkeypatch, tiny_tokenizer):
    """A scripted engine takes the place of vLLM's; yields what it was opened with."""
    opened: list[dict] = []

    def open_target(target, spec, **options):
        opened.append(options)
        engine = ScriptedEngine(tiny_tokenizer, lambda prompt, sampling: "4" if "2+2" in prompt else "six")
        monkeypatch.setattr(engine, "close", lambda: opened.append({"closed": True}))
        return engine

    monkeypatch.setattr(rft.contestant, "open_target", open_target)
    return opened


def test_every_prompt_is_answered_n_times_and_keeps_its_row(scripted, tiny_model_dir):
    rollouts = sample(str(tiny_model_dir), ROWS, n=3, max_new_tokens=8)
    assert [rollout.text for rollout in rollouts] == ["4"] * 3 + ["six"] * 3
    assert len({rollout.group_id for rollout in rollouts}) == 2
    assert rollouts[0].task.reference == "4" and rollouts[0].task.metadata == {"unit": "apples"}
    assert scripted[-1] == {"closed": True}
    pushes = [row.push for row in preview(lambda text, reference: text == reference, rollouts).rows]
    assert pushes == ["none"] * 6


def test_a_prompt_may_be_plain_text_a_row_or_a_task(scripted, tiny_model_dir):
    task = Task("mine", (Message("user", "2+2?"),))
    for prompts in ("2+2?", ["2+2?"], [{"messages": [{"role": "user", "content": "2+2?"}]}], [task]):
        (rollout,) = sample(str(tiny_model_dir), prompts, n=1, temperature=0, max_new_tokens=8)
        assert rollout.text == "4"
    (told,) = sample(str(tiny_model_dir), "2+2?", n=1, system="Be brief.", max_new_tokens=8)
    assert [message.role for message in told.messages] == ["system", "user", "assistant"]


def test_a_recipe_brings_its_environment_and_sampling(scripted, tiny_model_dir):
    values = {"model": str(tiny_model_dir), "data": {"train": "t.jsonl"}, "evaluator": "exact"}
    recipe = recipe_from(values | {"rollout": {"top_k": 7}}, source="a test", folder=tiny_model_dir)
    rollouts = sample(str(tiny_model_dir), "2+2?", n=2, recipe=recipe, max_new_tokens=8)
    assert [rollout.text for rollout in rollouts] == ["4", "4"]


def test_an_endpoint_is_sampled_with_its_key_and_different_seeds(fake_api: FakeAPI, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", "hunter2hunter2")
    fake_api.reply(chat(lambda messages: messages[-1]["content"][0]))
    rollouts = sample(f"{fake_api.url}/v1", ["2+2?", "3+3?"], n=2, api_key_env="SHOP_KEY", temperature=0.7)
    assert [rollout.text for rollout in rollouts] == ["2", "2", "3", "3"]
    asked = [request for request in fake_api.requests if request.method == "POST"]
    assert {request.headers["authorization"] for request in asked} == {"Bearer hunter2hunter2"}
    assert {request.json()["temperature"] for request in asked} == {0.7}
    assert len({request.json()["seed"] for request in asked}) == 4


def test_answers_that_do_not_come_are_left_out_with_a_warning_and_all_lost_is_an_error(fake_api: FakeAPI):
    talk = chat("fine")
    fake_api.reply(lambda asked: Reply({}, 400) if b"3+3" in asked.body else talk(asked))
    with pytest.warns(UserWarning, match="2 of 4 answers did not come: failed .bad_response: endp"):
        rollouts = sample(f"{fake_api.url}/v1", ["2+2?", "3+3?"], n=2)
    assert [rollout.text for rollout in rollouts] == ["fine", "fine"]
    with pytest.raises(UserError, match="2 of 2 answers did not come"):
        sample(f"{fake_api.url}/v1", ["3+3?"], n=2)


def test_it_works_in_a_running_loop(fake_api: FakeAPI):
    fake_api.reply(chat("fine"))

    async def cell():
        return sample(f"{fake_api.url}/v1", "2+2?", n=1)

    assert asyncio.run(cell())[0].text == "fine"


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([], {}, "no prompts"),
        ([3], {}, "a prompt is text, a row of data or a Task, got int"),
        ("2+2?", {"n": 0}, "n must be at least 1"),
        ("2+2?", {"n": 2, "temperature": 0}, "same greedy answer again"),
        ([{"question": "?"}], {}, "prompt 0: no prompt"),
        ("2+2?", {"api_key_env": "NOT_SET_HERE"}, "NOT_SET_HERE is not set"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_opened(prompts, options, said):
    with pytest.raises(UserError, match=said):
        sample("packaged:tiny", prompts, **options)


def stored_run(tmp_path) -> RunFolder:
    run = RunFolder.create(tmp_path, "brief", "")
    for step in (1, 12):
        task = Task("a", (Message("user", f"Step {step}?"),), "4", {"unit": "apples"})
        turn = Turn((1,), (2,), (-1.0,), "stop")
        spoke = Rollout("0-a/0", "0-a", task, (*task.messages, Message("assistant", str(step))), (turn,))
        lost = Rollout("0-a/1", "0-a", task, task.messages, stop="tool_error")
        scores = [Score(1.0), Score.failed("sandbox", "gone")]
        run.write_rollouts(step, [Group("0-a", task, [spoke, lost], scores)])
    return run


def test_stored_answers_are_those_of_the_newest_step_or_of_the_one_asked_for(tmp_path):
    run = stored_run(tmp_path)
    (newest,) = load_rollouts("brief", output_dir=str(tmp_path))
    assert newest.text == "12" and newest.task.metadata == {"unit": "apples"}
    (first,) = load_rollouts(run.path, step=1)
    assert first.text == "1"


def test_a_step_or_split_that_is_not_there_is_named(tmp_path):
    run = stored_run(tmp_path)
    with pytest.raises(RunError, match="no train rollouts of step 5; it has steps 1 to 12"):
        load_rollouts(run.path, step=5)
    with pytest.raises(RunError, match="has stored no heldout rollouts yet"):
        load_rollouts(run.path, split="heldout")
