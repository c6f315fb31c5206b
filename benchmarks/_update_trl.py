"""TRL's side of update.py: GRPOTrainer's loss on prepared inputs, backward and step, one when asked for."""

from __future__ import annotations

import tempfile
import time
from typing import Any

from _common import Peak, Turns

_turns = Turns()  # before a library prints

import torch  # noqa: E402  # after stdout is taken
from _update_data import MEMBERS, arguments, groups  # noqa: E402
from datasets import Dataset  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from rft.models.source import locate  # noqa: E402
from rft.process import rss_gb  # noqa: E402


def main() -> None:
    """Builds the trainer and the micro-batches it would have made."""
    parser = arguments()
    parser.add_argument("--rows", type=int, required=True, help="completions per forward and backward pass")
    options = parser.parse_args()
    idle_gb = rss_gb()
    folder = locate(options.model)
    passes = options.prompts * MEMBERS // options.rows
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=options.rows,
        gradient_accumulation_steps=passes,
        num_generations=MEMBERS,
        max_completion_length=options.completion,
        learning_rate=2e-5,
        optim="adamw_torch_fused",
        gradient_checkpointing=options.checkpointing == "full",
        report_to="none",
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa"),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "never asked"}]),
    )
    model: Any = trainer.model
    # What Trainer.train does before its first step:
    model.train()
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(config.gradient_checkpointing_kwargs)
    optimizer = trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = passes
    batches = _inputs(options, model.config.vocab_size)
    peak = Peak()
    while True:
        _turns.wait()
        peak.reset()
        began = time.perf_counter()
        for inputs in batches:
            trainer.accelerator.backward(trainer.compute_loss(model, inputs))
        norm = trainer.accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        model.zero_grad()
        seconds = time.perf_counter() - began
        _turns.say(seconds=seconds, memory_gb=peak.read() - idle_gb, gradient=float(norm))


def _inputs(options: Any, vocabulary: int) -> list[dict[str, Tensor]]:
    prompts: list[list[int]] = []
    completions: list[list[int]] = []
    advantages: list[Tensor] = []
    for answers in groups(options, vocabulary):
        prompts += [answers.prompt] * MEMBERS
        completions += answers.completions
        rewards = torch.tensor(answers.rewards)
        advantages.append((rewards - rewards.mean()) / (rewards.std() + 1e-4))
    whole = {
        "prompt_ids": torch.tensor(prompts),
        "prompt_mask": torch.ones(len(prompts), options.prompt, dtype=torch.long),
        "completion_ids": torch.tensor(completions),
        "completion_mask": torch.ones(len(prompts), options.completion, dtype=torch.long),
        "advantages": torch.cat(advantages),
    }
    num_items = whole["completion_mask"].sum()
    return [
        {name: tensor[start : start + options.rows] for name, tensor in whole.items()}
        | {"num_items_in_batch": num_items}
        for start in range(0, len(prompts), options.rows)
    ]


if __name__ == "__main__":
    main()
