"""TRL's trainers on our policy: losses by hand, memory where it was, rows and arguments as promised."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from rft.errors import UserError
from rft.learn.optimizer import PolicyOptimizer
from rft.learn.preference import (
    Taught,
    example_tokens,
    is_continued,
    require_known_args,
    rows_per_pass,
    teach,
)
from rft.types import Message, Task

SFT = [
    Task(f"s{n}", (Message("user", asked),), metadata={"completion": said})
    for n, (asked, said) in enumerate([("one", "1"), ("two and", "22"), ("a", "three"), ("bb", "4 4 4")])
]
DPO = [Task(f"d{n}", f"say {n}:", metadata={"chosen": "yes" * (n + 1), "rejected": "nope"}) for n in range(4)]
KTO = [
    Task(f"k{n}", f"say {n}:", metadata={"completion": "ab"[n % 2], "label": n % 2 == 0}) for n in range(4)
]


def taught(
    model: Any,
    tokenizer: Any,
    folder: Path,
    kind: Any,
    tasks: list[Task],
    *,
    rows: int = 4,
    at_once: int = 4,
    rate: float = 1e-2,
    reference: Any = None,
    **changes: Any,
) -> list[Taught]:
    """What each step reported."""
    told: list[Taught] = []

    def after_step(one: Taught) -> bool:
        told.append(one)
        return True

    optimizer = PolicyOptimizer(
        model.named_parameters(), learning_rate=rate, total_steps=100, max_grad_norm=1e9
    )
    settings: dict[str, Any] = {
        "args": {},
        "seed": 0,
        "first_step": 0,
        "writing": lambda _: nullcontext(),
        "after_step": after_step,
        "optimizer": optimizer,
    } | changes
    teach(
        model,
        tokenizer,
        tasks,
        kind=kind,
        reference=reference,
        rows=rows,
        rows_at_once=at_once,
        folder=folder,
        **settings,
    )
    return told


def completion_logprobs(model: Any, tokenizer: Any, prompt: Any, answer: str) -> torch.Tensor:
    """Written out: [tokens of the answer and of what ends it]."""
    if isinstance(prompt, str):
        before = tokenizer(prompt)["input_ids"]
        whole = tokenizer(prompt + answer + tokenizer.eos_token)["input_ids"]
    else:
        chat = [message.to_dict() for message in prompt]
        said = [*chat, {"role": "assistant", "content": answer}]
        before = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(said)["input_ids"]
    assert whole[: len(before)] == before
    with torch.no_grad():
        logits_TV = model(torch.tensor([whole])).logits[0, len(before) - 1 : -1]
    targets_N = torch.tensor(whole[len(before) :])
    return logits_TV.log_softmax(-1).gather(1, targets_N[:, None]).squeeze(1)


def sequence_logprob(model: Any, tokenizer: Any, task: Task, name: str) -> float:
    return completion_logprobs(model, tokenizer, task.prompt, task.metadata[name]).sum().item()


def copy_of(model: Any) -> Any:
    import copy

    return copy.deepcopy(model).requires_grad_(False).eval()


# --- losses -----------------------------------------------------------------------------------------------


def test_sft_is_the_mean_over_answer_tokens_alone(tiny_model, tiny_tokenizer, tmp_path):
    each = [
        completion_logprobs(tiny_model, tiny_tokenizer, task.prompt, task.metadata["completion"])
        for task in SFT
    ]
    by_hand = -torch.cat(each).mean().item()
    (told,) = taught(tiny_model, tiny_tokenizer, tmp_path, "sft", SFT)
    assert told.loss == pytest.approx(by_hand, abs=1e-5)


def test_dpo_is_the_log_sigmoid_of_the_margin_over_the_reference(tiny_model, tiny_tokenizer, tmp_path):
    reference = copy_of(tiny_model)
    with torch.no_grad():  # a policy that has moved already
        for number, parameter in enumerate(tiny_model.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    margins = []
    for task in DPO:
        moved = {
            name: sequence_logprob(tiny_model, tiny_tokenizer, task, name)
            - sequence_logprob(reference, tiny_tokenizer, task, name)
            for name in ("chosen", "rejected")
        }
        margins.append(0.3 * (moved["chosen"] - moved["rejected"]))
    by_hand = -F.logsigmoid(torch.tensor(margins)).mean().item()
    assert abs(by_hand - math.log(2)) > 0.01  # else any margin would do
    (told,) = taught(
        tiny_model, tiny_tokenizer, tmp_path, "dpo", DPO, reference=reference, args={"beta": 0.3}
    )
    assert told.loss == pytest.approx(by_hand, abs=1e-4)
    assert told.logs["rewards/margins"] == pytest.approx(sum(margins) / 4, abs=1e-4)


def test_kto_starts_at_one_half_where_policy_and_reference_are_the_same(tiny_model, tiny_tokenizer, tmp_path):
    (told,) = taught(tiny_model, tiny_tokenizer, tmp_path, "kto", KTO, reference=copy_of(tiny_model))
    assert told.loss == pytest.approx(0.5, abs=1e-6)


# --- what is learned --------------------------------------------------------------------------------------


def test_sft_makes_the_demonstrated_answer_likelier(tiny_model, tiny_tokenizer, tmp_path):
    before = [sequence_logprob(tiny_model, tiny_tokenizer, task, "completion") for task in SFT]
    taught(tiny_model, tiny_tokenizer, tmp_path, "sft", SFT * 5)
    after = [sequence_logprob(tiny_model, tiny_tokenizer, task, "completion") for task in SFT]
    assert all(new > old + 1 for old, new in zip(before, after, strict=True))


def test_dpo_widens_the_margin(tiny_model, tiny_tokenizer, tmp_path):
    def margin() -> float:
        return sum(
            sequence_logprob(tiny_model, tiny_tokenizer, task, "chosen")
            - sequence_logprob(tiny_model, tiny_tokenizer, task, "rejected")
            for task in DPO
        )

    before = margin()
    told = taught(tiny_model, tiny_tokenizer, tmp_path, "dpo", DPO * 5, reference=copy_of(tiny_model))
    assert margin() > before + 4
    assert told[-1].loss < told[0].loss == pytest.approx(math.log(2), abs=1e-5)
    assert told[-1].logs["rewards/accuracies"] == 1.0


def test_kto_moves_good_and_bad_answers_apart(tiny_model, tiny_tokenizer, tmp_path):
    def gap() -> float:
        signs = [1 if task.metadata["label"] else -1 for task in KTO]
        each = [sequence_logprob(tiny_model, tiny_tokenizer, task, "completion") for task in KTO]
        return sum(sign * one for sign, one in zip(signs, each, strict=True))

    before = gap()
    taught(tiny_model, tiny_tokenizer, tmp_path, "kto", KTO * 5, reference=copy_of(tiny_model))
    assert gap() > before + 1


# --- steps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "tasks"), [("sft", SFT), ("dpo", DPO)])
def test_how_a_step_is_cut_into_passes_does_not_change_it(tiny_model, tiny_tokenizer, tmp_path, kind, tasks):
    def run(at_once: int) -> tuple[Any, list[Taught]]:
        model = copy_of(tiny_model).requires_grad_(True)
        reference = None if kind == "sft" else copy_of(tiny_model)
        return model, taught(
            model, tiny_tokenizer, tmp_path, kind, tasks * 2, at_once=at_once, reference=reference
        )

    whole, told_whole = run(4)
    cut, told_cut = run(1)
    for one, other in zip(told_whole, told_cut, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-5)
        assert one.optimizer.grad_norm == pytest.approx(other.optimizer.grad_norm, rel=1e-4)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)  # Adam magnifies where a gradient is ~0


def test_parameters_stay_where_they_are_and_change_only_while_writing(tiny_model, tiny_tokenizer, tmp_path):
    places = [parameter.data_ptr() for parameter in tiny_model.parameters()]
    identities = [id(parameter) for parameter in tiny_model.parameters()]
    seen: list[int] = []

    class Writing:
        def __init__(self, number: int) -> None:
            seen.append(number)

        def __enter__(self) -> None:
            assert torch.equal(tiny_model.lm_head.weight, values[-1])

        def __exit__(self, *_: object) -> None:
            values.append(tiny_model.lm_head.weight.detach().clone())

    values = [tiny_model.lm_head.weight.detach().clone()]
    taught(tiny_model, tiny_tokenizer, tmp_path, "sft", SFT * 3, writing=Writing, first_step=7)
    assert seen == [8, 9, 10]
    assert not torch.equal(values[0], values[1])
    assert torch.equal(tiny_model.lm_head.weight, values[-1])
    assert [parameter.data_ptr() for parameter in tiny_model.parameters()] == places
    assert [id(parameter) for parameter in tiny_model.parameters()] == identities


def test_bfloat16_weights_learn_through_float32_masters(tiny_model, tiny_tokenizer, tmp_path):
    model = tiny_model.to(torch.bfloat16)
    told = taught(model, tiny_tokenizer, tmp_path, "sft", SFT * 3)
    assert all(one.optimizer.applied and one.optimizer.grad_norm > 0 for one in told)
    assert told[-1].loss < told[0].loss


def test_it_stops_when_told_and_writes_nothing(tiny_model, tiny_tokenizer, tmp_path):
    told: list[Taught] = []
    taught(
        tiny_model,
        tiny_tokenizer,
        tmp_path,
        "sft",
        SFT * 5,
        after_step=lambda one: bool(told.append(one)) or len(told) < 2,
    )
    assert len(told) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_gradient_that_is_not_finite_moves_nothing(tiny_model, tiny_tokenizer, tmp_path):
    with torch.no_grad():
        tiny_model.model.layers[0].mlp.up_proj.weight[0, 0] = math.inf
    before = tiny_model.lm_head.weight.detach().clone()
    (told,) = taught(tiny_model, tiny_tokenizer, tmp_path, "sft", SFT)
    assert not told.optimizer.applied and not math.isfinite(told.loss)
    assert torch.equal(tiny_model.lm_head.weight, before)


def test_the_tokenizer_is_left_as_it_was(tiny_model, tiny_tokenizer, tmp_path):
    before = tiny_tokenizer.pad_token
    tiny_tokenizer.pad_token = None
    try:
        taught(tiny_model, tiny_tokenizer, tmp_path, "sft", SFT)
        assert tiny_tokenizer.pad_token is None
    finally:
        tiny_tokenizer.pad_token = before


def test_an_adapter_learns_over_a_frozen_base(tiny_model, tiny_tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    reference = copy_of(tiny_model)
    model = get_peft_model(tiny_model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    base = tiny_model.model.embed_tokens.weight.detach().clone()
    told = taught(model, tiny_tokenizer, tmp_path, "dpo", DPO * 5, reference=reference)
    assert told[-1].loss < told[0].loss
    assert torch.equal(tiny_model.model.embed_tokens.weight, base)
    assert list(model.peft_config) == ["default"]  # no second adapter that would be saved and published


# --- rows and arguments -----------------------------------------------------------------------------------


def test_tokens_of_an_example_are_those_that_are_trained_on(tiny_tokenizer):
    # <|im_start|> user \n one <|im_end|> \n <|im_start|> assistant \n 1 <|im_end|> \n, a token a byte
    assert example_tokens(tiny_tokenizer, SFT[0], "sft") == 1 + 5 + 3 + 2 + 1 + 10 + 1 + 2
    # "say 3:" and the longer of "yesyesyesyes" and "nope", and the end
    assert example_tokens(tiny_tokenizer, DPO[3], "dpo") == 6 + 12 + 1


def test_a_prompt_whose_last_token_grows_with_the_answer_is_seen():
    class Merging:
        eos_token = ""

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [hash(word) for word in text.split(" ")]}

    assert is_continued(Merging(), Task("t", "two words", metadata={"completion": " more"}), "sft")
    assert not is_continued(Merging(), Task("t", "two words", metadata={"completion": "more"}), "sft")


@pytest.mark.parametrize(
    ("kind", "rows", "longest", "expected"),
    [
        ("sft", 8, 100, 8),  # 800 of 1000 tokens
        ("sft", 8, 200, 4),  # 8 would be 1600
        ("sft", 8, 5000, 1),  # one is the least
        ("dpo", 8, 100, 4),  # two sequences a row
        ("kto", 8, 5000, 2),  # two rows are the least
        ("kto", 9, 5000, 3),  # and they divide a step's
        ("sft", 7, 200, 1),  # 7 would be 1400, and nothing else divides it
    ],
)
def test_rows_of_a_pass_divide_a_step_and_fit_the_budget(kind, rows, longest, expected):
    assert rows_per_pass(kind, rows, longest, 1000) == expected


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("dpo", "beat", "DPOConfig has no such argument; did you mean 'beta'?"),
        ("sft", "learning_rate", "set train.learning_rate"),
        ("sft", "packing", "leave it out"),
        ("sft", "lerning_rate", "did you mean 'train.learning_rate'?"),
        ("sft", "zzzz", "SFTConfig has no such argument"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line(kind, name, said):
    with pytest.raises(UserError, match=f"algorithm.args.{name}") as caught:
        require_known_args(kind, {name: 1})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_arguments_that_trl_knows_pass():
    require_known_args("dpo", {"beta": 0.2, "loss_type": "ipo", "label_smoothing": 0.1})
    require_known_args("kto", {"desirable_weight": 2.0})
    require_known_args("sft", {"loss_type": "dft"})


def test_a_value_that_trl_refuses_is_one_line(tiny_model, tiny_tokenizer, tmp_path):
    with pytest.raises(UserError, match="algorithm.kind sft.*loss_type") as caught:
        taught(tiny_model, tiny_tokenizer, tmp_path, "sft", SFT, args={"loss_type": "best"})
    assert "\n" not in str(caught.value)
