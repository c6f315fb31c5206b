"""A loss of one's own, from a real file, through the recipe's name to the gradient."""

from __future__ import annotations

import pytest
from learn_cases import GradientKeeper, assert_same_gradient, gradient_of, random_groups, tiny_llama

from rft.errors import UserError
from rft.formulas import loss_of, wrong_formulas
from rft.learn.batch import to_batch
from rft.learn.credit import assign_credit
from rft.learn.probe import Abilities
from rft.learn.update import Updater
from rft.recipe.schema import AlgorithmSpec, MismatchSpec, TrainSpec

CAPPED = MismatchSpec(mode="truncate", level="token", clip_max=2.0)
SOURCE = '''
"""A policy gradient without any clipping."""
from torch import Tensor

from rft.learn.loss import LossConfig, LossInputs


def reinforce(inputs: LossInputs, config: LossConfig, *, strength: float = 1.0) -> Tensor:
    return -strength * inputs.advantages_N * inputs.policy_logprobs_N


def summed(inputs: LossInputs, config: LossConfig) -> Tensor:
    return reinforce(inputs, config).sum()


def nothing(inputs: LossInputs, config: LossConfig) -> None:
    reinforce(inputs, config)


def still(inputs: LossInputs, config: LossConfig) -> Tensor:
    return reinforce(inputs, config).detach()


def broken(inputs: LossInputs, config: LossConfig) -> Tensor:
    return inputs.advantage_N


number = 7
'''


@pytest.fixture
def path(tmp_path) -> str:
    (tmp_path / "mine.py").write_text(SOURCE)
    return f"{tmp_path}/mine.py"


def _own_gradient(algorithm: AlgorithmSpec):
    model = tiny_llama()
    keeper = GradientKeeper(model)
    updater = Updater(
        model,
        keeper,
        algorithm,
        TrainSpec(micro_batch_tokens=64, logit_chunk=7),
        temperature=1.0,
        max_completion_tokens=20,
        abilities=Abilities("shared", chunked_head=True),
        own_loss=loss_of(algorithm),
    )
    batch = to_batch(random_groups(1), mask_truncated=False, min_valid=0.0)
    updater.update(assign_credit(updater.measure(batch), algorithm))
    return keeper.gradients[0]


def test_it_trains_as_it_says(path):
    # On policy no loss type clips, so the built-in one has the same gradient.
    ours = _own_gradient(AlgorithmSpec(loss_type=f"{path}:reinforce", mismatch=CAPPED))
    _, expected = gradient_of(tiny_llama(), random_groups(1), AlgorithmSpec(mismatch=CAPPED))
    assert_same_gradient(ours, expected)


def test_its_arguments_and_its_normaliser_come_from_the_recipe(path):
    algorithm = AlgorithmSpec(
        loss_type=f"{path}:reinforce", loss_args={"strength": 3.0}, normaliser="grpo", mismatch=CAPPED
    )
    _, expected = gradient_of(
        tiny_llama(), random_groups(1), AlgorithmSpec(loss_type="grpo", mismatch=CAPPED)
    )
    assert_same_gradient(
        {name: gradient / 3.0 for name, gradient in _own_gradient(algorithm).items()}, expected
    )


@pytest.mark.parametrize(
    ("attribute", "args", "said"),
    [
        ("reinforc", {}, "has no 'reinforc'; did you mean 'reinforce'?"),
        ("number", {}, "cannot be called"),
        ("reinforce", {"strenght": 1.0}, "got an unexpected keyword argument 'strenght'"),
    ],
)
def test_a_wrong_name_or_argument_is_one_clear_line(path, attribute, args, said):
    algorithm = AlgorithmSpec(loss_type=f"{path}:{attribute}", loss_args=args)
    (problem,) = wrong_formulas(algorithm)
    assert problem.path == "algorithm.loss_type"
    assert said in problem.message
    assert "\n" not in problem.message


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("summed", r"returned shape \(\); return one loss for each policy token, shape \(\d+,\)"),
        ("nothing", "returned NoneType; return one loss for each policy token"),
        ("still", "returned a loss without a gradient"),
        ("broken", "raised AttributeError: .* has no attribute 'advantage_N'"),
    ],
)
def test_a_function_that_is_no_loss_is_told_by_name(path, attribute, said):
    with pytest.raises(UserError, match=f"algorithm.loss_type: .*mine.py:{attribute} {said}"):
        _own_gradient(AlgorithmSpec(loss_type=f"{path}:{attribute}"))
