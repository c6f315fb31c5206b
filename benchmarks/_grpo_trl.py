"""TRL's side of grpo_step.py: GRPOTrainer, stopped before each step until the driver asks for it."""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from typing import Any

from _common import Peak, Turns

_turns = Turns()  # before a library prints

import torch  # noqa: E402  # after stdout is taken
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from rft.data.split import load_split  # noqa: E402
from rft.models.source import locate  # noqa: E402
from rft.recipe.load import load_recipe  # noqa: E402


class _Gate(TrainerCallback):
    """Lets a step begin when the driver says so, and tells what it took."""

    def __init__(self) -> None:
        self.peak = Peak()
        self.generate_s = 0.0
        self.lengths: list[int] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _turns.wait()
        self.peak.reset()
        self.generate_s, self.lengths = 0.0, []
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seconds = time.perf_counter() - self.began
        _turns.say(
            seconds=seconds,
            generate_s=self.generate_s,
            train_s=seconds - self.generate_s,
            length=sum(self.lengths) / len(self.lengths),
            trained_tokens=sum(self.lengths),
            step_peak_gb=self.peak.read(),
            peak_gb=self.peak.highest,
        )


def main() -> None:
    """Builds the trainer from the same recipe and trains."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--force-length", action="store_true")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rows", type=int, default=8, help="completions per forward and backward pass")
    parser.add_argument("--autocast", action="store_true", help="bf16=True: autocast around bfloat16 weights")
    parser.add_argument("--continuous", action="store_true", help="transformers' continuous batching")
    options = parser.parse_args()

    recipe = load_recipe("quickstart", ["eval.tasks=1", f"model.source={options.model}"])
    folder = locate(recipe.model.source)
    tasks = load_split(recipe.data, num_heldout=1, seed=recipe.seed).train
    prompts = recipe.train.prompts_per_step
    completions = prompts * recipe.rollout.group_size
    gate = _Gate()

    def reward(completions: list[Any], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        gate.lengths += [len(ids) for ids in completion_ids]
        texts = [f"{number} {completion[0]['content']}" for number, completion in enumerate(completions)]
        return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48 for text in texts]

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=options.autocast,
        per_device_train_batch_size=options.rows,
        gradient_accumulation_steps=completions // options.rows,
        num_generations=recipe.rollout.group_size,
        max_completion_length=options.tokens,
        generation_kwargs={"min_new_tokens": options.tokens} if options.force_length else None,
        use_transformers_continuous_batching=options.continuous,
        # Its cache takes half of the machine's memory when it is not told how much.
        transformers_continuous_batching_config={"max_memory_percent": 0.05} if options.continuous else None,
        max_steps=options.steps,
        learning_rate=2e-5,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa"),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": [m.to_dict() for m in task.messages]} for task in tasks]),
        callbacks=[gate],
    )
    # Measured from outside, on this one object: generation with tokenizing, decoding and rewards.
    generate = trainer._generate_and_score_completions

    def timed(inputs: Any) -> Any:
        began = time.perf_counter()
        try:
            return generate(inputs)
        finally:
            gate.generate_s += time.perf_counter() - began

    trainer._generate_and_score_completions = timed
    trainer.train()


if __name__ == "__main__":
    main()
