"""What a recipe's training steps ask, play and train on: the tasks' order, and the supply of groups."""

from __future__ import annotations

from rft.data.curriculum import Curriculum
from rft.data.order import TaskOrder
from rft.engine.vllm import VLLMEngine
from rft.learn.batch import kept_members, rewards_vary
from rft.recipe.schema import Recipe
from rft.rollout.play import Player
from rft.rollout.selection import Selection
from rft.rollout.supply import Supply
from rft.runs.view import View
from rft.scoring.runner import ScoringRunner
from rft.types import Group


def build_supply(
    recipe: Recipe, order: TaskOrder, player: Player, runner: ScoringRunner, engine: VLLMEngine, view: View
) -> Supply:
    """The groups of a run. Raises DataError for a curriculum over an evaluator without a range."""
    spec = recipe.data.curriculum
    tasks = order if spec is None else Curriculum(order, spec, runner.evaluator.range, seed=recipe.seed)
    rollout = recipe.rollout

    def teaches(group: Group) -> bool:
        masks = rollout.truncated == "mask"
        kept = kept_members(group, masks, rollout.min_valid, recipe.algorithm.min_members)
        # Answers that are not compared with each other need not differ.
        return rewards_vary(kept) if recipe.algorithm.min_members > 1 else bool(kept)

    selection = Selection(
        player,
        runner,
        tasks,
        rollout,
        groups_per_step=recipe.train.prompts_per_step,
        seed=recipe.seed,
        teaches=teaches,
        note=view.note,
    )
    return Supply(
        selection,
        steps=recipe.train.steps,
        one_step_off=rollout.one_step_off,
        # What other prompts left in its cache would change the last bits, and a run that goes on lacks it.
        refresh=engine.forget_prompts,
        on_progress=view.progress,
    )
