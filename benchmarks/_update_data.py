"""What both sides of update.py train on, and the arguments that say so."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

MEMBERS = 8


@dataclass(frozen=True)
class Answers:
    """A prompt's token ids, those of its completions, and their rewards."""

    prompt: list[int]
    completions: list[list[int]]
    rewards: list[float]


def arguments() -> argparse.ArgumentParser:
    """Model, shape and gradient checkpointing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--checkpointing", choices=["none", "full"], required=True)
    for name in ("prompts", "prompt", "completion"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser


def groups(options: argparse.Namespace, vocabulary: int) -> list[Answers]:
    """Random groups, the same in every process."""
    chance = random.Random(0)

    def ids(count: int) -> list[int]:
        return [chance.randrange(vocabulary) for _ in range(count)]

    return [
        Answers(
            ids(options.prompt),
            [ids(options.completion) for _ in range(MEMBERS)],
            [chance.random() for _ in range(MEMBERS)],
        )
        for _ in range(options.prompts)
    ]
