"""What a recipe may ask of the loss, and how a mistake is told."""

from __future__ import annotations

import pytest

from rft.errors import RecipeError
from rft.preflight import check_recipe
from rft.recipe.load import load_recipe

RECIPE = """
model: packaged:tiny
data: {train: rows.jsonl}
evaluator: exact
algorithm: {%s}
"""


@pytest.fixture
def write(tmp_path):
    def make(algorithm: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE % algorithm)
        return path

    return make


@pytest.mark.parametrize(
    ("algorithm", "path", "said"),
    [
        ("loss_type: dapoo", "algorithm.loss_type", "did you mean 'dapo'?"),
        ("loss_type: gspo", "algorithm.loss_type", "is loss_type: grpo with importance_level: sequence"),
        ("loss_type: cispo", "algorithm.epsilon_high", "at least 1"),
        ("loss_type: cispo, epsilon_high: 0.28", "algorithm.epsilon_high", "at least 1"),
        ("loss_type: sapo, epsilon_high: 0.28", "algorithm.epsilon_high", "means nothing for sapo"),
        ("loss_type: cispo, epsilon_high: 5, delta: 4", "algorithm.delta", "means nothing for cispo"),
        ("loss_type: vespo, dual_clip: 3", "algorithm.dual_clip", "means nothing for vespo"),
        ("delta: 4, dual_clip: 3", "algorithm.dual_clip", "set one of them"),
        (
            "loss_type: vespo, importance_level: sequence",
            "algorithm.importance_level",
            "weighs whole sequences itself",
        ),
        ("loss_args: {k_pos: 1}", "algorithm.loss_args.k_pos", "is no constant of dapo, which takes none"),
        (
            "loss_type: sapo, loss_args: {k_pos: 1}",
            "algorithm.loss_args.k_pos",
            "which takes temperature_pos, temperature_neg",
        ),
        ("beta: 0.1, kl: {estimator: k1}", "algorithm.kl.estimator", "k1 has no gradient in a loss"),
        ("kl: {corrected: true, place: reward}", "algorithm.kl.corrected", "is for kl.place: loss"),
        ("kl: {sync_every: 5}", "algorithm.kl.sync_every", "that algorithm.beta: 0 does not ask"),
        ("entropy: {coef: 2, target: 1}", "algorithm.entropy.coef", "starts above coef_max"),
        ("mismatch: {mode: icepop, clip_min: 4}", "algorithm.mismatch.clip_min", "must be below clip_max"),
        ("critic: {lam: 1}", "algorithm.critic", "is for kind: ppo"),
        (
            "kind: ppo, critic: {warmup_steps: 100}",
            "algorithm.critic.warmup_steps",
            "leaves none of train.steps (100) for the policy",
        ),
        ("kind: ppo, critic: {kind: model, coef: 1}", "algorithm.critic.coef", "shares no trunk"),
    ],
)
def test_what_cannot_be_is_told_at_its_key(write, algorithm, path, said):
    with pytest.raises(RecipeError) as error:
        load_recipe(write(algorithm))
    (problem,) = error.value.problems
    assert (problem.path, said in problem.message) == (path, True), problem


@pytest.mark.parametrize(
    "algorithm",
    [
        "loss_type: cispo, epsilon_high: 5",
        "loss_type: vespo, loss_args: {k_pos: 1.0}",
        "beta: 0.1, kl: {estimator: k1, corrected: true}",
        "beta: 0.1, kl: {estimator: k1, place: reward}",
        "entropy: {target: 0.5}",
        "loss_type: luspo, importance_level: sequence, delta: 4",
    ],
)
def test_what_can_be_loads(write, algorithm):
    load_recipe(write(algorithm))


def test_a_loss_in_a_file_is_looked_for_when_the_recipe_is_checked(write, tmp_path):
    (tmp_path / "mine.py").write_text("def bold(inputs, config):\n    return -inputs.advantages_N\n")
    problems = {one.path: one.message for one in check_recipe(write("loss_type: './mine.py:bald'")).problems}
    assert "did you mean 'bold'?" in problems["algorithm.loss_type"]
    problems = {one.path for one in check_recipe(write("loss_type: './mine.py:bold'")).problems}
    assert "algorithm.loss_type" not in problems


def test_a_critic_needs_no_second_answer(write):
    path = write("kind: ppo")
    algorithm = load_recipe(path, ["rollout.group_size=1"]).algorithm
    assert algorithm.min_members == 1
    assert algorithm.trains_constant
