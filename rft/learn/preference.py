"""Learning from answers that exist: TRL's SFT, DPO and KTO trainers, on the policy where it stands.

The losses, the data's way through the chat template and the reference's forward passes are TRL's. Ours is
what touches memory: an engine may be reading the parameters, so the optimizer is ours (in place, float32
masters, a gradient that is not finite is not applied), it writes while `writing` is held, and neither model
nor optimizer is moved, wrapped or saved by the trainer. Rows are laid out step by step before, so a run that
goes on sees the rows it would have seen, and dropout draws from the step's own seed.

Nothing is truncated: `example_tokens` says beforehand what an example needs.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from rft.errors import UserError
from rft.learn.optimizer import PolicyOptimizer, StepStats
from rft.recipe.schema import ANSWERS, Examples
from rft.types import Task

_TRAINERS: dict[Examples, tuple[Any, Any]] = {
    "sft": (SFTTrainer, SFTConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
}
_SEQUENCES: dict[Examples, int] = {"sft": 1, "dpo": 2, "kto": 2}
"""Sequences of one row in a forward pass; KTO's second estimates the divergence from the reference."""

_OURS = {
    # Arguments of TRL's configs that a key of the recipe decides.
    "adam_beta1": "train.optimizer.betas",
    "adam_beta2": "train.optimizer.betas",
    "adam_epsilon": "train.optimizer.eps",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "gradient_accumulation_steps": "train.micro_batch_tokens",
    "gradient_checkpointing": "model.gradient_checkpointing",
    "gradient_checkpointing_kwargs": "model.gradient_checkpointing",
    "learning_rate": "train.learning_rate",
    "logging_steps": "tracking",
    "lr_scheduler_type": "train.optimizer.schedule",
    "max_grad_norm": "train.max_grad_norm",
    "max_length": "rollout.max_total_tokens",
    "max_steps": "train.steps",
    "num_train_epochs": "train.steps",
    "optim": "train.optimizer",
    "output_dir": "train.output_dir",
    "per_device_train_batch_size": "train.prompts_per_step",
    "report_to": "tracking",
    "save_steps": "train.checkpoint.every",
    "save_strategy": "train.checkpoint.every",
    "seed": "seed",
    "shuffle_dataset": "data.shuffle",
    "train_sampling_strategy": "data.shuffle",
    "warmup_ratio": "train.optimizer.warmup_steps",
    "warmup_steps": "train.optimizer.warmup_steps",
    "weight_decay": "train.optimizer.weight_decay",
}
_WITHOUT = {"packing", "push_to_hub", "model_init_kwargs", "dataset_kwargs", "use_liger_kernel"}
"""Arguments that would change how many rows a step has, or what the policy is."""


@dataclass(frozen=True)
class Taught:
    """One optimizer step."""

    loss: float
    """As TRL means it: nats a token for SFT; a mean over pairs or examples for DPO and KTO."""
    optimizer: StepStats
    logs: Mapping[str, float]
    """What TRL reports beside it, under its names."""


def require_known_args(kind: Examples, args: Mapping[str, Any]) -> None:
    """Raises UserError for an argument that TRL's config does not have, or that a key of ours decides."""
    _, config = _TRAINERS[kind]
    known = {field.name for field in dataclasses.fields(config) if field.init}
    for name in args:
        if name in _OURS:
            raise UserError(f"algorithm.args.{name}: has a key of its own: set {_OURS[name]}")
        if name in _WITHOUT:
            raise UserError(f"algorithm.args.{name}: is not for a model that an engine shares; leave it out")
        if name not in known:
            near = difflib.get_close_matches(name, known - _WITHOUT, 1)
            hint = f"; did you mean {_OURS.get(near[0], near[0])!r}?" if near else ""
            raise UserError(f"algorithm.args.{name}: TRL's {config.__name__} has no such argument{hint}")


def example_tokens(tokenizer: Any, task: Task, kind: Examples) -> int:
    """Tokens of the longest sequence that an example makes: prompt, answer and what ends it."""
    row = _row(task, kind)
    return max(len(_tokens(tokenizer, row["prompt"], row[name])) for name in ANSWERS[kind])


def is_continued(tokenizer: Any, task: Task, kind: Examples) -> bool:
    """Whether the prompt keeps its tokens when an answer follows; else training sees another prompt."""
    row = _row(task, kind)
    prompt = _tokens(tokenizer, row["prompt"])
    whole = [_tokens(tokenizer, row["prompt"], row[name]) for name in ANSWERS[kind]]
    return all(ids[: len(prompt)] == prompt for ids in whole)


def rows_per_pass(kind: Examples, rows: int, longest: int, micro_batch_tokens: int) -> int:
    """Rows that go through the model at once: the largest divisor of a step's rows that fits the budget.

    KTO pairs each prompt with a neighbour's answer, so it needs two at least.
    """
    least = 2 if kind == "kto" else 1
    divisors = [count for count in range(least, rows + 1) if rows % count == 0]
    fitting = [count for count in divisors if count * _SEQUENCES[kind] * longest <= micro_batch_tokens]
    return max(fitting, default=divisors[0])


def teach(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[Task],
    *,
    kind: Examples,
    args: Mapping[str, Any],
    optimizer: PolicyOptimizer,
    reference: nn.Module | None,
    rows: int,
    rows_at_once: int,
    seed: int,
    first_step: int,
    folder: Path,
    writing: Callable[[int], AbstractContextManager[None]],
    after_step: Callable[[Taught], bool],
) -> None:
    """Takes one optimizer step for every `rows` tasks, in their order, through TRL's trainer.

    Args:
        tasks: examples; their answers are text in `Task.metadata`.
        args: further arguments of TRL's config.
        optimizer: over the model's parameters.
        reference: the frozen model that DPO and KTO compare with; None for SFT.
        rows: of one step.
        rows_at_once: of them in one forward pass; divides `rows`.
        first_step: completed before.
        folder: an existing one, for a trainer that asks for a place.
        writing: held while parameters change, given the number of the step.
        after_step: is told of each step; training goes on while it returns true.

    Raises UserError for arguments that TRL refuses.
    """
    trainer_class, config_class = _TRAINERS[kind]
    stepper = _InPlace(optimizer, first_step, writing)
    models = {} if kind == "sft" else {"ref_model": reference}
    try:
        trainer = trainer_class(
            model=model,
            args=config_class(
                **args,
                output_dir=str(folder),
                max_steps=len(tasks) // rows,
                per_device_train_batch_size=rows_at_once,
                gradient_accumulation_steps=rows // rows_at_once,
                train_sampling_strategy="sequential",
                max_length=None,
                max_grad_norm=0.0,  # the optimizer's own
                bf16=False,
                gradient_checkpointing=False,  # the policy has its own
                gradient_checkpointing_kwargs={"use_reentrant": False},
                logging_steps=1,
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=seed,
                use_cpu=next(model.parameters()).device.type == "cpu",
            ),
            train_dataset=Dataset.from_list([_row(task, kind) for task in tasks]),
            processing_class=copy.deepcopy(tokenizer),  # TRL gives it a padding token
            optimizers=(stepper, torch.optim.lr_scheduler.LambdaLR(stepper, lambda _: 1.0)),
            callbacks=[_EachStep(stepper, seed, first_step, after_step)],
            **models,
        )
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"algorithm.kind {kind}: {' '.join(str(error).split())}") from error
    trainer.remove_callback(PrinterCallback)
    trainer.train()


class _InPlace(torch.optim.Optimizer):
    """A `PolicyOptimizer` where torch's loops expect one of torch's."""

    def __init__(
        self,
        inner: PolicyOptimizer,
        first_step: int,
        writing: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        super().__init__(inner.parameters, {"lr": inner.learning_rate})
        self.last: StepStats | None = None
        self._inner, self._number, self._writing = inner, first_step, writing

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # takes no closure, returns no loss
        self._number += 1
        with self._writing(self._number):
            self.last = self._inner.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._inner.zero_grad()


class _EachStep(TrainerCallback):
    """Reports each step, and seeds it by its number: a run that goes on draws the same dropout."""

    def __init__(
        self, stepper: _InPlace, seed: int, first_step: int, after_step: Callable[[Taught], bool]
    ) -> None:
        self._stepper, self._seed, self._after_step = stepper, seed, after_step
        self._step = first_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.manual_seed(self._seed * 1_000_003 + self._step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:  # the trainer's last word, about its speed
            return
        assert self._stepper.last is not None
        self._step += 1
        if not self._after_step(Taught(logs["loss"], self._stepper.last, dict(logs))):
            control.should_training_stop = True


def _row(task: Task, kind: Examples) -> dict[str, Any]:
    """A task as TRL takes it: chats as lists of messages, plain prompts and their answers as text."""
    chat = not isinstance(task.prompt, str)
    row: dict[str, Any] = {
        "prompt": [message.to_dict() for message in task.messages] if chat else task.prompt
    }
    for name in ANSWERS[kind]:
        text = task.metadata[name]
        row[name] = [{"role": "assistant", "content": text}] if chat else text
    if kind == "kto":
        row["label"] = task.metadata["label"]
    return row


def _tokens(tokenizer: Any, prompt: Any, answer: Any = None) -> list[int]:
    if isinstance(prompt, str):
        text = prompt if answer is None else prompt + answer + tokenizer.eos_token
        return list(tokenizer(text)["input_ids"])
    whole = prompt if answer is None else [*prompt, *answer]
    text = tokenizer.apply_chat_template(whole, add_generation_prompt=answer is None, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
