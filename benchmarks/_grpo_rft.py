"""rft's side of grpo_step.py: `rft train` itself, stopped before each step until the driver asks for it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping

from _common import Peak, Turns

_turns = Turns()  # before a library prints

from rft.recipe.load import load_recipe  # noqa: E402  # after stdout is taken
from rft.runs.view import View  # noqa: E402
from rft.train import train  # noqa: E402


class _Gate(View):
    """A view that lets a step begin when the driver says so, and tells what it took."""

    def __init__(self, total_steps: int) -> None:
        super().__init__(total_steps, plain=True)
        self._peak = Peak()

    def phase(self, name: str) -> None:
        super().phase(name)
        if name == "rollout":
            _turns.wait()
            self._peak.reset()
            self._began = time.perf_counter()
        elif name == "update":
            self._generated = time.perf_counter()

    def step(self, metrics: Mapping[str, float], number: int | None = None) -> None:
        seconds = time.perf_counter() - self._began
        super().step(metrics, number)
        _turns.say(
            seconds=seconds,
            generate_s=self._generated - self._began,
            train_s=seconds - (self._generated - self._began),
            length=metrics["rollout/length_mean"],
            trained_tokens=metrics["tokens/trained"],
            step_peak_gb=self._peak.read(),
            peak_gb=self._peak.highest,
        )


def main() -> None:
    """Arguments: overrides of the recipe `quickstart`."""
    recipe = load_recipe("quickstart", [*sys.argv[1:], f"train.output_dir={tempfile.mkdtemp()}"])
    train(recipe, view=_Gate(recipe.train.steps))


if __name__ == "__main__":
    main()
