"""Our evaluators in TRL's own trainer."""

from __future__ import annotations

import math

import pytest

from rft import Evaluator, EvaluatorError, GroupEvaluator, Limits, Score, evaluator
from rft.adapters import as_trl_reward
from rft.errors import UserError

ASK = [{"role": "user", "content": "2+2?"}]


@evaluator(limits=Limits(attempts=1))
def exact(text, reference):
    if text == "down":
        raise EvaluatorError("server", "HTTP 503")
    if text == "unclear":
        return Score.skip("no way to tell")
    return Score(float(text == reference), reason=f"said {text}")


class Longest(GroupEvaluator):
    def evaluate_group(self, rollouts):
        longest = max(len(rollout.text) for rollout in rollouts)
        return [float(len(rollout.text) == longest) for rollout in rollouts]


class Tokens(Evaluator):
    range = (0, 100)

    async def evaluate(self, rollout):
        return rollout.num_tokens


def said(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_a_failed_or_skipped_evaluation_is_none_never_zero():
    reward = as_trl_reward(exact, reference="answer")
    logged = {}
    got = reward(
        prompts=[ASK] * 4,
        completions=said("4", "5", "down", "unclear"),
        answer=["4"] * 4,
        trainer_state=None,
        log_extra=logged.__setitem__,
        log_metric=logged.__setitem__,
    )
    assert got == [1.0, 0.0, None, None]
    assert logged["exact/masked"] == 0.5
    assert logged["exact_reason"] == [
        "said 4",
        "said 5",
        "failed (server: HTTP 503)",
        "was skipped (no way to tell)",
    ]
    reward.close()


def test_plain_prompts_and_token_ids_arrive():
    reward = as_trl_reward(Tokens())
    assert reward(prompts=["a", "b"], completions=["x", "y"], completion_ids=[[1, 2], [3]]) == [2.0, 1.0]


def test_neighbours_with_one_prompt_are_a_group_unless_the_size_is_given():
    prompts, texts = ["p", "p", "q", "q"], ["a", "ab", "abc", "abcd"]
    assert as_trl_reward(Longest())(prompts, texts) == [0.0, 1.0, 0.0, 1.0]
    assert as_trl_reward(Longest())(["p"] * 4, texts) == [0.0, 0.0, 0.0, 1.0]
    assert as_trl_reward(Longest(), num_generations=2)(["p"] * 4, texts) == [0.0, 1.0, 0.0, 1.0]
    assert as_trl_reward(Longest())([], []) == []


def test_a_missing_column_says_so_at_the_first_call():
    with pytest.raises(UserError, match=r"exact needs reference; the data has answer \(reference= names"):
        as_trl_reward(exact)(prompts=[ASK], completions=said("4"), answer=["4"])


def test_trls_trainer_takes_it_and_leaves_what_has_no_number_out(tiny_model_dir, tiny_tokenizer, tmp_path):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    trainer = trl.GRPOTrainer(
        model=str(tiny_model_dir),
        processing_class=tiny_tokenizer,
        reward_funcs=as_trl_reward(exact, reference="answer"),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to="none",
            max_steps=1,
            logging_steps=1,
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=4,
            save_strategy="no",
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": ASK, "answer": "4"}] * 2),
    )
    trainer.train()
    assert trainer.state.log_history[0]["rewards/exact/mean"] == 0.0
    assert trainer.state.log_history[0]["exact/masked"] == 0.0
    row = {"prompt": ASK, "answer": "4"}
    rewards = trainer._calculate_rewards([row] * 3, [ASK] * 3, said("4", "5", "down"), [[1], [2], [3]])
    assert rewards[:2, 0].tolist() == [1.0, 0.0]
    assert math.isnan(rewards[2, 0])
