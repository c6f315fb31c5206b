"""Every loss type by hand: three tokens, of two sequences."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rft.learn.loss import LossConfig, LossInputs
from rft.learn.surrogates import LOSS_TYPES, cispo, clipped, loss_config, loss_type, sapo, vespo
from rft.recipe.schema import AlgorithmSpec, MismatchSpec
from rft.recipe.schema.algorithm import LOSS_ARGS
from rft.recipe.schema.algorithm import LOSS_TYPES as NAMES

OFF = MismatchSpec(mode="off")


def _inputs(policy, old, advantages, sampler=None) -> LossInputs:
    """Probabilities of three tokens; the first two are of sequence 0."""
    policy_N = torch.tensor(policy).log().requires_grad_()
    old_N = torch.tensor(old).log()
    sampler_N = old_N if sampler is None else torch.tensor(sampler).log()
    sequence_N = torch.tensor([0, 0, 1])
    return LossInputs(policy_N, old_N, sampler_N, torch.tensor(advantages), sequence_N, torch.zeros(3))


# Ratios 1.5, 0.5 and 0.5.
def _three() -> LossInputs:
    return _inputs([0.3, 0.1, 0.2], [0.2, 0.2, 0.4], [1.0, 1.0, -2.0])


def _expect(loss_N, inputs: LossInputs, values, gradient) -> None:
    if values is not None:
        assert loss_N.tolist() == pytest.approx(values, rel=1e-5)
    loss_N.sum().backward()
    assert inputs.policy_logprobs_N.grad.tolist() == pytest.approx(gradient, rel=1e-5, abs=1e-7)


def test_clipped_by_hand():
    #   token 0: 1.5 is above 1.2 with a gain: clipped             -> -1.2, no gradient
    #   token 1: 0.5 is below 0.8 with a gain: min takes it as is  -> -0.5, d(-r)/d log p = -r
    #   token 2: 0.5 is below 0.8 with a loss: clipped             -> 2 * 0.8, no gradient
    inputs = _three()
    _expect(clipped(inputs, LossConfig(clipped)), inputs, [-1.2, -0.5, 1.6], [0.0, -0.5, 0.0])


def test_clip_higher_by_hand():
    # Up to 1.6 now: token 0 is inside and moves.
    inputs = _three()
    loss_N = clipped(inputs, LossConfig(clipped, ratio_max=1.6))
    _expect(loss_N, inputs, [-1.5, -0.5, 1.6], [-1.5, -0.5, 0.0])


def test_the_sequence_ratio_by_hand():
    # Sequence 0 has the ratio sqrt(1.5 * 0.5) = 0.8660, inside; sequence 1 has 0.5, clipped to 0.8.
    # d sqrt(r0 r1) / d log p = 0.8660 / 2 for either token, and two tokens carry it.
    inputs = _three()
    loss_N = clipped(inputs, LossConfig(clipped, importance_level="sequence"))
    _expect(loss_N, inputs, [-0.866025, -0.866025, 1.6], [-0.866025, -0.866025, 0.0])


@pytest.mark.parametrize("bound", [{"delta": 2.0}, {"dual_clip": 2.0}])
def test_two_sided_and_dual_clip_by_hand(bound):
    # Ratios 3, 3 and 1.5, bounded at 2.
    #   token 0, A -2: 3 counts as 2       -> 4, no gradient (unbounded: 6)
    #   token 1, A +1: clipped at 1.2      -> -1.2, no gradient
    #   token 2, A -2: 1.5 is within       -> 3, d(2 r)/d log p = 2 * 1.5
    inputs = _inputs([0.6, 0.6, 0.3], [0.2, 0.2, 0.2], [-2.0, 1.0, -2.0])
    _expect(clipped(inputs, LossConfig(clipped, **bound)), inputs, [4.0, -1.2, 3.0], [0.0, 0.0, 3.0])


def test_cispo_by_hand():
    # Weights min(r, 1.2) are 1.2, 0.5, 0.5; minus weight times A times log p, whose gradient is 1.
    inputs = _three()
    values = [1.2 * 1.2039728, 0.5 * 2.3025851, -1.0 * 1.6094379]
    _expect(cispo(inputs, LossConfig(cispo, ratio_max=1.2)), inputs, values, [-1.2, -0.5, 1.0])


def test_sapo_by_hand():
    # t is 2 for gains, 4 for losses. With s = sigmoid(t (r - 1)): value 4/t s, slope in log p 4 s (1 - s) r.
    #   token 0: s(1)  = 0.7310586 -> 1.4621172, slope 4 * 0.1966119 * 1.5 = 1.1796716
    #   token 1: s(-1) = 0.2689414 -> 0.5378828, slope 4 * 0.1966119 * 0.5 = 0.3932239
    #   token 2: s(-2) = 0.1192029 -> 0.1192029, slope 4 * 0.1049936 * 0.5 = 0.2099872
    inputs = _three()
    loss_N = sapo(inputs, LossConfig(sapo), temperature_pos=2.0, temperature_neg=4.0)
    _expect(loss_N, inputs, [-1.4621172, -0.5378828, 0.2384058], [-1.1796716, -0.3932239, 0.4199744])


def test_sapos_temperatures_are_the_papers_where_none_are_given():
    inputs, config = _three(), LossConfig(sapo)
    given_N = sapo(inputs, config, temperature_pos=1.0, temperature_neg=1.05)
    assert torch.equal(sapo(inputs, config), given_N)


def test_vespo_by_hand():
    # Sequence 0: w = 0.75, k 2, lambda 3: phi = 0.75^2 e^(3 - 2.25) = 1.1908125.
    # Sequence 1: w = 0.5, k 3, lambda 2:  phi = 0.5^3 e^(2 - 1)     = 0.3397852.
    inputs = _three()
    loss_N = vespo(inputs, LossConfig(vespo, mismatch=OFF))
    _expect(loss_N, inputs, None, [-1.1908125, -1.1908125, 2 * 0.3397852])


@pytest.mark.parametrize(
    ("mismatch", "phi"),
    [
        # Token 0 has old / sampler = 4, cut to 2: w = 0.75 * 2, phi = 1.5^2 e^(3 - 4.5).
        (MismatchSpec(mode="truncate", level="token", clip_max=2.0), 0.5020429),
        # The product of the sequence's ratios is 4, cut to 3: w = 0.75 * 3, phi = 2.25^2 e^(3 - 6.75).
        (MismatchSpec(mode="truncate", level="sequence", clip_max=3.0), 0.1190586),
        # Their geometric mean is 2 for each of two tokens, uncut: w = 0.75 * 4, phi = 3^2 e^(3 - 9).
        (MismatchSpec(mode="truncate", level="geometric", clip_max=3.0), 0.0223087),
    ],
)
def test_vespo_weighs_by_the_sampler_too(mismatch, phi):
    inputs = _inputs([0.3, 0.1, 0.2], [0.2, 0.2, 0.4], [1.0, 1.0, -2.0], sampler=[0.05, 0.2, 0.4])
    loss_N = vespo(inputs, LossConfig(vespo, mismatch=mismatch))
    _expect(loss_N, inputs, None, [-phi, -phi, 2 * 0.3397852])


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("name", LOSS_TYPES)
@given(rows=st.lists(st.tuples(st.floats(-5, -0.1), st.integers(0, 3)), min_size=1, max_size=8))
def test_on_policy_every_loss_type_has_the_policy_gradient(name, level, rows):
    # At r = 1 nothing is clipped and all of them are REINFORCE: d loss / d log p = -A.
    sequence_N = torch.tensor(sorted(sequence for _, sequence in rows))
    advantages_N = torch.tensor([1.0, -0.5, 2.0, -1.5])[sequence_N]
    logprobs_N = torch.tensor([logprob for logprob, _ in rows])
    policy_N = logprobs_N.clone().requires_grad_()
    algorithm = AlgorithmSpec(
        loss_type=name, importance_level=level, epsilon_high=1.5 if name == "cispo" else None
    )
    inputs = LossInputs(
        policy_N, logprobs_N, logprobs_N, advantages_N, sequence_N, torch.zeros_like(logprobs_N)
    )
    config = loss_config(algorithm, loss_type(algorithm))
    config.surrogate(inputs, config).sum().backward()
    torch.testing.assert_close(policy_N.grad, -advantages_N, rtol=1e-4, atol=1e-5)


def test_the_recipe_knows_every_loss_type_and_its_constants():
    assert tuple(LOSS_TYPES) == NAMES
    for name, kind in LOSS_TYPES.items():
        constants = list(inspect.signature(kind.surrogate).parameters)[2:]
        assert tuple(constants) == LOSS_ARGS.get(name, ())


@pytest.mark.parametrize(
    ("algorithm", "bounds"),
    [
        ({"epsilon": 0.25}, (0.75, 1.25)),
        ({"epsilon": 0.25, "epsilon_high": 0.5}, (0.75, 1.5)),
        ({"loss_type": "cispo", "epsilon_high": 5.0}, (0.0, 5.0)),
        ({"loss_type": "sapo"}, (0.0, math.inf)),
        ({"loss_type": "vespo"}, (0.0, math.inf)),
        ({"loss_type": "mine:loss", "epsilon": 0.25}, (0.75, 1.25)),
    ],
)
def test_the_bounds_of_the_ratio(algorithm, bounds):
    spec = AlgorithmSpec(**algorithm)
    config = loss_config(spec, loss_type(spec, own=clipped))
    assert (config.ratio_min, config.ratio_max) == bounds


def test_a_divergence_taken_off_the_reward_is_not_in_the_loss_as_well():
    in_loss = AlgorithmSpec(beta=0.1)
    in_reward = AlgorithmSpec(beta=0.1, kl={"place": "reward", "estimator": "k1"})
    assert loss_config(in_loss, loss_type(in_loss)).beta == 0.1
    assert loss_config(in_reward, loss_type(in_reward)).beta == 0.0


def test_a_normaliser_may_be_another_types():
    assert loss_type(AlgorithmSpec(loss_type="cispo")).normaliser == "dapo"
    assert loss_type(AlgorithmSpec(loss_type="cispo", normaliser="grpo")).normaliser == "grpo"


def test_a_loss_by_path_must_come_resolved():
    with pytest.raises(ValueError, match="resolve it"):
        loss_type(AlgorithmSpec(loss_type="mine:loss"))
