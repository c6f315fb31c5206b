"""Lesson 2: write an evaluator, train with it. About half a minute on two cores.

The model is a tiny one with random weights (`packaged:tiny`): it speaks in random bytes, so the only thing it
can learn in a few steps is which bytes you like. Swap in a real model and your own evaluator and nothing else
changes.

    python examples/02_write_an_evaluator_and_train.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rft import evaluator, score

RECIPE = """
name: lowercase
model: packaged:tiny
data: {{train: tasks.jsonl}}
evaluator: {here}:lowercase
rollout: {{group_size: 8, max_new_tokens: 12}}
train: {{steps: 12, prompts_per_step: 4, learning_rate: 0.01}}
eval: {{every: 0, tasks: 8, temperature: 1.0, samples: 4}}
"""


@evaluator
def lowercase(text):
    """The share of characters that are lowercase letters."""
    return sum(character.islower() for character in text) / max(1, len(text))


def main() -> None:
    # An evaluator is tried like any function, before a model sees it.
    assert lowercase("abcD") == 0.75
    print("as a score:", score(lowercase, prompt="Say something.", completion="abcD"))

    folder = Path(tempfile.mkdtemp(prefix="rft-lesson-"))
    tasks = [{"prompt": f"Say something about the number {number}."} for number in range(40)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    (folder / "recipe.yaml").write_text(RECIPE.format(here=Path(__file__).resolve()))

    subprocess.run(["rft", "recipe", "check", str(folder / "recipe.yaml")], check=True)
    done = subprocess.run(
        ["rft", "train", str(folder / "recipe.yaml"), f"train.output_dir={folder}/runs", "--json"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result = json.loads(done.stdout)
    print(f"held-out reward {result['heldout_before']:.2f} -> {result['heldout_after']:.2f}")
    print(f"everything it did stands in {result['run']}")
    if result["heldout_after"] <= result["heldout_before"]:
        sys.exit("the model did not get better")


if __name__ == "__main__":
    main()
