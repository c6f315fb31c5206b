"""A reward model from a folder: a tiny classifier with random weights stands in for one that learned."""

from __future__ import annotations

import asyncio
import math

import pytest

from rft import Message, Rollout, Task
from rft.errors import UserError
from rft.evaluators import RewardModel
from rft.scoring.runner import ScoringRunner


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir):
    return classifier(tmp_path_factory.mktemp("reward") / "one", tiny_model_dir, outputs=1)


def classifier(folder, tiny_model_dir, outputs):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_model_dir, num_labels=outputs, dtype="float32"
    )
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


def rollouts_of(*answers):
    task = Task("t", (Message("user", "Say something kind."),))
    return [
        Rollout(f"t/{i}", "t", task, (*task.messages, Message("assistant", answer)))
        for i, answer in enumerate(answers)
    ]


def scored(judge, *answers):
    async def run():
        async with ScoringRunner(judge) as runner:
            return await asyncio.gather(*map(runner.score, rollouts_of(*answers)))

    return asyncio.run(run())


def test_the_score_is_the_models_output_whoever_else_is_in_the_batch(folder):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    answers = ["You are kind.", "No.", "", "A much longer answer " * 10]
    together = [got.value for got in scored(RewardModel(model=str(folder)), *answers)]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for rollout in rollouts_of(*answers):
        ids = tokenizer.apply_chat_template(
            [message.to_dict() for message in rollout.messages], return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            expected.append(model(**ids).logits.item())
    assert together == pytest.approx(expected, abs=1e-4)
    assert len(set(together)) == 4


def test_squashed_into_zero_to_one_by_the_logistic_function(folder):
    (raw,) = scored(RewardModel(model=str(folder)), "You are kind.")
    (squashed,) = scored(RewardModel(model=str(folder), squash=True), "You are kind.")
    assert squashed.value == pytest.approx(1 / (1 + math.exp(-raw.value)), abs=1e-5)


def test_one_of_several_outputs_has_to_be_named(tmp_path, tiny_model_dir):
    folder = classifier(tmp_path / "three", tiny_model_dir, outputs=3)
    for label in (None, 3):
        with pytest.raises(UserError, match="3 outputs .* name the one that counts"):
            scored(RewardModel(model=str(folder), label=label), "?")
    values = {scored(RewardModel(model=str(folder), label=label), "?")[0].value for label in range(3)}
    assert len(values) == 3


def test_a_folder_without_a_model_is_told_before_anything_is_scored(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        scored(RewardModel(model=str(tmp_path)), "?")


def test_a_conversation_beyond_the_limit_is_cut_at_its_end(folder):
    short, long = scored(RewardModel(model=str(folder), max_tokens=40), "kind " * 40, "kind " * 80)
    assert short.value == pytest.approx(long.value, abs=1e-5)


def test_an_output_that_is_no_number_is_a_failure(folder, monkeypatch):
    judge = RewardModel(model=str(folder))
    load = judge._load

    def load_broken():
        load()
        judge._model.score.weight.fill_(math.nan)

    monkeypatch.setattr(judge, "_load", load_broken)
    (got,) = scored(judge, "?")
    assert got.failure.kind == "bad_response"
