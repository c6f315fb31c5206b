"""PPO: values before credit, credit by GAE, clipped policy loss and clipped value loss over the same rows.

TRL 1.16 has no PPO trainer any more, so the second implementation here is our own and slow on purpose: one
sequence at a time, one token at a time, from the equations of the papers.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_cases import (
    VOCABULARY,
    GradientKeeper,
    assert_same_gradient,
    group,
    random_groups,
    rollout,
    tiny_llama,
)
from peft import LoraConfig, get_peft_model

from rft.learn.batch import Batch, to_batch
from rft.learn.credit import assign_credit
from rft.learn.critic import Critic
from rft.learn.probe import Abilities
from rft.learn.update import Updater, build_optimizer
from rft.recipe.schema import AlgorithmSpec, CriticSpec, MismatchSpec, OptimizerSpec, TrainSpec
from rft.types import Group

KINDS = ["head", "model"]
OFF = MismatchSpec(mode="off")


def _ppo(kind: str = "head", mismatch: MismatchSpec = OFF, **changes) -> AlgorithmSpec:
    critic = {"kind": kind, "gamma": 0.9, "lam": 0.8, "epsilon": 0.2}
    critic |= changes.pop("critic", {})
    return AlgorithmSpec(kind="ppo", mismatch=mismatch, critic=CriticSpec(**critic), **changes)


def _updater(
    model, algorithm: AlgorithmSpec, *, packing: str = "shared", keep: bool = False, **train
) -> Updater:
    """With a critic that has opinions; with `keep` the optimizers only keep the gradients."""
    spec = TrainSpec(**{"micro_batch_tokens": 64, "logit_chunk": 7, "learning_rate": 1e-2, **train})
    critic = Critic(model, algorithm, spec)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        critic.head.weight.copy_(0.2 * torch.randn(critic.head.weight.shape, generator=generator))
    if keep:
        critic.optimizer = GradientKeeper(critic)
    return Updater(
        model,
        GradientKeeper(model) if keep else build_optimizer(model, algorithm, spec),
        algorithm,
        spec,
        temperature=1.0,
        max_completion_tokens=20,
        abilities=Abilities(packing, chunked_head=True),
        critic=critic,
    )


def _batch(groups: list[Group]) -> Batch:
    return to_batch(groups, mask_truncated=False, min_valid=0.0, min_members=1, keep_constant=True)


def _gradients(updater: Updater) -> dict[str, torch.Tensor]:
    """Of policy and critic, of the first step."""
    policy, critic = updater.optimizer.gradients[0], updater.critic.optimizer.gradients[0]
    return policy | {f"critic.{name}": gradient for name, gradient in critic.items()}


def _disturb(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.03 * torch.randn(parameter.shape, generator=generator)


# --- the slow version -----------------------------------------------------------------------------


def _slow(model, critic: Critic, groups: list[Group], algorithm: AlgorithmSpec):
    """(log-probability, value) of each sampled token of each rollout, by one plain forward per rollout."""
    found = []
    for member in (one for each in groups for one in each.rollouts):
        ids, sampled = [], []
        for turn in member.turns:
            ids += turn.context_ids
            sampled += range(len(ids), len(ids) + len(turn.token_ids))
            ids += turn.token_ids
        out = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        states = out.hidden_states[-1][0]
        if critic.trunk is not None:
            states = critic.trunk(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        tokens = []
        for position in sampled:
            logprobs = torch.log_softmax(out.logits[0, position - 1], dim=-1)
            value = (critic.head.weight[0] * states[position - 1]).sum() + critic.head.bias[0]
            tokens.append((logprobs[ids[position]], value))
        found.append(tokens)
    return found


def _slow_loss(before, now, rewards: list[float], algorithm: AlgorithmSpec):
    """(policy loss, value loss), each a mean over all sampled tokens of the batch."""
    spec = algorithm.critic
    advantages, returns = [], []
    for tokens, reward in zip(before, rewards, strict=True):
        values = [value.item() for _, value in tokens]
        for t in range(len(values)):
            advantage = 0.0  # sum over l of (gamma lambda)^l delta_{t + l}: GAE's definition, equation 16
            for later in range(t, len(values)):
                last = later == len(values) - 1
                delta = (reward if last else 0.0) + (0.0 if last else spec.gamma * values[later + 1])
                advantage += (spec.gamma * spec.lam) ** (later - t) * (delta - values[later])
            advantages.append(advantage)
            returns.append(advantage + values[t])
    mean = sum(advantages) / len(advantages)
    variance = sum((one - mean) ** 2 for one in advantages) / (len(advantages) - 1)
    whitened = [(one - mean) / math.sqrt(variance + 1e-8) for one in advantages]
    policy_loss = value_loss = 0.0
    old_tokens = [token for tokens in before for token in tokens]
    new_tokens = [token for tokens in now for token in tokens]
    for n, ((old_logprob, old_value), (logprob, value)) in enumerate(
        zip(old_tokens, new_tokens, strict=True)
    ):
        ratio, low, high = (
            torch.exp(logprob - old_logprob.item()),
            1 - algorithm.epsilon,
            1 + algorithm.epsilon,
        )
        if (ratio > high and whitened[n] > 0) or (ratio < low and whitened[n] < 0):
            ratio = high if ratio > high else low  # far enough the right way: no gradient
        policy_loss = policy_loss - ratio * whitened[n]
        low, high = old_value.item() - spec.epsilon, old_value.item() + spec.epsilon
        bounded = min(max(value.item(), low), high)
        if bounded != value.item() and abs(bounded - returns[n]) > abs(value.item() - returns[n]):
            value = torch.tensor(bounded)
        value_loss = value_loss + (value - returns[n]) ** 2 / 2
    return policy_loss / len(new_tokens), value_loss / len(new_tokens)


@pytest.mark.parametrize(("kind", "coef"), [("head", 0.5), ("head", 2.0), ("model", 0.5)])
def test_loss_and_gradient_are_those_of_the_slow_version(kind, coef):
    model = tiny_llama()
    groups = random_groups(5, multi_turn=True)
    rewards = [float(score) for one in groups for score in one.scores]
    # Two passes, so that the old policy is measured; what moves it here is the disturbance.
    algorithm = _ppo(kind, num_iterations=2, critic={"coef": coef})
    updater = _updater(model, algorithm, keep=True)
    before = _slow(model, updater.critic, groups, algorithm)
    batch = assign_credit(updater.measure(_batch(groups)), algorithm)
    _disturb(model, 1)
    _disturb(updater.critic, 2)
    now = _slow(model, updater.critic, groups, algorithm)
    policy_loss, value_loss = _slow_loss(before, now, rewards, algorithm)
    stats = updater.update(batch)
    assert stats.loss == pytest.approx(policy_loss.item(), abs=1e-5)
    assert stats.metrics["value_loss"] == pytest.approx(value_loss.item(), rel=1e-5)
    assert 0.05 < stats.metrics["value_clip"] < 0.95, "some values are clipped, others are not"
    assert 0.0 < stats.metrics["clip_low"] + stats.metrics["clip_high"] < 0.95

    model.zero_grad()
    updater.critic.zero_grad()
    (policy_loss + (coef if kind == "head" else 1.0) * value_loss).backward()
    expected = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    expected |= {
        f"critic.{n}": one.grad for n, one in updater.critic.named_parameters() if one.grad is not None
    }
    assert_same_gradient(_gradients(updater), expected)


def test_three_tokens_by_hand():
    # One answer of three tokens with reward 1; the critic expected 0.5 everywhere; gamma 0.5, lambda 0.5.
    #   delta_3 = 1 - 0.5            = 0.5        A_3 = 0.5                          R_3 = 1.0
    #   delta_2 = 0.5 * 0.5 - 0.5    = -0.25      A_2 = -0.25 + 0.25 * 0.5 = -0.125    R_2 = 0.375
    #   delta_1 = 0.5 * 0.5 - 0.5    = -0.25      A_1 = -0.25 + 0.25 * -0.125 = -0.28125  R_1 = 0.21875
    # On policy the ratio is 1, so the policy loss is minus the mean advantage:
    #   -(0.5 - 0.125 - 0.28125) / 3 = -0.03125
    # The values have not moved, so the value loss is half the mean of the squared advantages:
    #   (0.25 + 0.015625 + 0.0791015625) / 6 = 0.0574544...
    # and its gradient by the head's bias is the mean of V - R, times coef 0.5:
    #   0.5 * (-0.5 + 0.125 + 0.28125) / 3 = -0.015625
    algorithm = _ppo(critic={"gamma": 0.5, "lam": 0.5, "whiten": False, "coef": 0.5})
    updater = _updater(tiny_llama(), algorithm, keep=True)
    with torch.no_grad():
        updater.critic.head.weight.zero_()
        updater.critic.head.bias.fill_(0.5)
    batch = updater.measure(_batch([group("g", [rollout("g/0", ([5, 6], [7, 8, 9]))], [1.0])]))
    assert batch.values_N.tolist() == [0.5, 0.5, 0.5]
    batch = assign_credit(batch, algorithm)
    assert batch.advantages_N.tolist() == [-0.28125, -0.125, 0.5]
    assert batch.returns_N.tolist() == [0.21875, 0.375, 1.0]
    stats = updater.update(batch)
    assert stats.loss == pytest.approx(-0.03125, abs=1e-7)
    assert stats.metrics["value_loss"] == pytest.approx(0.3447265625 / 6, abs=1e-7)
    assert _gradients(updater)["critic.head.bias"].item() == pytest.approx(-0.015625, abs=1e-7)
    # What is left of the returns, the advantages, varies as much as they do: a constant explains nothing.
    assert stats.metrics["explained_variance"] == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    budget=st.integers(1, 80),
    packing=st.sampled_from(["shared", "packed", "single"]),
    kind=st.sampled_from(KINDS),
    size=st.integers(1, 4),
    shuffle=st.randoms(use_true_random=False),
)
def test_cut_order_and_sharing_do_not_change_the_gradient(seed, budget, packing, kind, size, shuffle):
    groups = random_groups(seed, size=size, multi_turn=True)
    algorithm = _ppo(kind, mismatch=MismatchSpec(mode="truncate", level="token", clip_max=2.0))

    def gradients(groups: list[Group], **how) -> dict[str, torch.Tensor]:
        updater = _updater(MODEL, algorithm, keep=True, **how)
        updater.update(assign_credit(updater.measure(_batch(groups)), algorithm))
        return _gradients(updater)

    shuffled = []
    for one in shuffle.sample(groups, len(groups)):
        order = shuffle.sample(range(len(one.rollouts)), len(one.rollouts))
        members, scores = [one.rollouts[i] for i in order], [one.scores[i] for i in order]
        shuffled.append(Group(one.id, one.task, members, scores))
    ours = gradients(shuffled, packing=packing, micro_batch_tokens=budget)
    assert_same_gradient(ours, gradients(groups, packing="single"))


MODEL = tiny_llama()


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_loss_reaches_the_policys_trunk_only_from_a_head_on_it(kind):
    algorithm = _ppo(kind)
    updater = _updater(tiny_llama(), algorithm, keep=True)
    batch = assign_credit(updater.measure(_batch(random_groups(2))), algorithm)
    silent = replace(batch, advantages_N=torch.zeros_like(batch.advantages_N))
    updater.update(silent)
    reached = {n for n, one in updater.optimizer.gradients[0].items() if one.abs().max() > 0}
    assert bool(reached) == (kind == "head")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", [False, True])
def test_a_policy_rests_while_its_critic_warms_up(kind, adapter):
    model = tiny_llama()
    if adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    algorithm = _ppo(kind, num_iterations=2, critic={"warmup_steps": 2})
    updater = _updater(model, algorithm, steps=5, optimizer=OptimizerSpec(weight_decay=0.1))
    groups = random_groups(8)
    start = {name: one.clone() for name, one in model.named_parameters()}
    losses, held = [], []

    @contextmanager
    def writing():
        held.append(1)
        yield

    for number in (1, 2):
        assert updater.warming_up
        stats = updater.update(assign_credit(updater.measure(_batch(groups)), algorithm), writing=writing)
        losses.append(stats.metrics["value_loss"])
        assert (stats.steps, stats.steps_skipped) == (0, 0)
        assert len(held) == 2 * number, "a checkpoint may be reading the critic, too"
    assert losses[1] < losses[0], "the critic learns"
    for name, one in model.named_parameters():
        assert torch.equal(one, start[name]), name
        assert one.grad is None, name
    stats = updater.update(assign_credit(updater.measure(_batch(groups)), algorithm))
    assert stats.steps == 2
    assert any(not torch.equal(one, start[name]) for name, one in model.named_parameters())


def test_a_schedule_begins_when_the_policy_does():
    algorithm = _ppo(critic={"warmup_steps": 3})
    train = TrainSpec(steps=5, learning_rate=1e-2, optimizer=OptimizerSpec(schedule="linear"))
    optimizer = build_optimizer(tiny_llama(), algorithm, train)
    optimizer.steps = 1
    assert optimizer.learning_rate == pytest.approx(0.5e-2), "the second of two"


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_that_was_stored_goes_on_exactly(kind, tmp_path):
    algorithm = _ppo(kind, minibatches=2, critic={"warmup_steps": 1})

    def learn(updater: Updater, seed: int) -> None:
        updater.update(assign_credit(updater.measure(_batch(random_groups(seed))), algorithm))

    model = tiny_llama()
    updater = _updater(model, algorithm)
    for seed in (1, 2):
        learn(updater, seed)
    torch.save([model.state_dict(), updater.state_dict()], tmp_path / "state.pt")
    learn(updater, 3)

    again = tiny_llama(seed=1)
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(weights)
    resumed = _updater(again, algorithm)
    resumed.load_state_dict(state)
    learn(resumed, 3)
    for (name, ours), theirs in zip(again.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    for (name, ours), theirs in zip(
        resumed.critic.named_parameters(), updater.critic.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_no_number_moves_nothing(kind):
    algorithm = _ppo(kind)
    model = tiny_llama()
    updater = _updater(model, algorithm)
    batch = assign_credit(updater.measure(_batch(random_groups(1))), algorithm)
    broken = replace(batch, returns_N=batch.returns_N.index_fill(0, torch.tensor([0]), float("nan")))
    before = [one.clone() for module in (model, updater.critic) for one in module.parameters()]
    stats = updater.update(broken)
    assert (stats.steps, stats.steps_skipped) == (0, 1)
    after = [one for module in (model, updater.critic) for one in module.parameters()]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(after, before, strict=True))


def test_a_step_without_scored_rollouts_is_no_step():
    algorithm = _ppo()
    updater = _updater(tiny_llama(), algorithm)
    nobody = group("g", [rollout("g/0", ([1], [2]))], [None])
    stats = updater.update(assign_credit(updater.measure(_batch([nobody])), algorithm))
    assert (stats.steps, stats.metrics) == (0, {})


def test_ppo_and_nothing_else_has_a_critic():
    algorithm, train = _ppo(), TrainSpec()
    model = tiny_llama()
    critic = Critic(model, algorithm, train)
    common = {"temperature": 1.0, "max_completion_tokens": 20, "abilities": Abilities("shared", True)}
    with pytest.raises(ValueError, match="critic"):
        Updater(model, build_optimizer(model, algorithm, train), algorithm, train, **common)
    with pytest.raises(ValueError, match="critic"):
        Updater(
            model, build_optimizer(model, algorithm, train), AlgorithmSpec(), train, critic=critic, **common
        )


def test_a_batch_without_values_or_returns_is_refused():
    algorithm = _ppo()
    updater = _updater(tiny_llama(), algorithm)
    batch = _batch(random_groups(1))
    with pytest.raises(ValueError, match="measure"):
        updater.update(batch)
    with pytest.raises(ValueError, match="assign_credit"):
        updater.update(updater.measure(batch))


# --- learning -------------------------------------------------------------------------------------


@torch.no_grad()
def _play(model, generator: torch.Generator, step: int) -> list[Group]:
    """32 answers of two tokens, each to a prompt of its own; the share of tokens below 20 is the reward."""
    prompts = torch.randint(VOCABULARY, (32, 3), generator=generator)
    ids, logprobs = prompts, []
    model.eval()
    for _ in range(2):
        chances = torch.log_softmax(model(input_ids=ids).logits[:, -1], dim=-1)
        drawn = torch.multinomial(chances.exp(), 1, generator=generator)
        logprobs.append(chances.gather(1, drawn))
        ids = torch.cat([ids, drawn], dim=1)
    groups = []
    for number, (answer, logprob) in enumerate(
        zip(ids[:, 3:].tolist(), torch.cat(logprobs, 1).tolist(), strict=True)
    ):
        one = rollout(f"{step}-{number}/0", (prompts[number].tolist(), answer))
        one = replace(one, turns=(replace(one.turns[0], logprobs=tuple(logprob)),))
        groups.append(group(one.group_id, [one], [sum(token < 20 for token in answer) / 2]))
    return groups


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_with_one_answer_a_prompt(kind):
    model = tiny_llama()
    algorithm = _ppo(kind, minibatches=2, critic={"warmup_steps": 2, "lam": 0.95, "gamma": 1.0})
    updater = _updater(model, algorithm, learning_rate=5e-3, steps=25)
    generator = torch.Generator().manual_seed(0)
    rewards = []
    for step in range(25):
        batch = _batch(_play(model, generator, step))
        rewards.append(batch.stats.reward_mean)
        updater.update(assign_credit(updater.measure(batch), algorithm))
    first, last = sum(rewards[:3]) / 3, sum(rewards[-5:]) / 5
    assert first < 0.45, "a third of the tokens is below 20"
    assert last > 0.8


@pytest.mark.parametrize(("kind", "times"), [("head", 2.0), ("model", 1.0)])
def test_only_a_value_loss_that_reaches_the_policys_trunk_is_weighed_also_while_it_warms_up(kind, times):
    model = tiny_llama()
    found = []
    for coef in (0.25, 0.5):
        algorithm = _ppo(kind, critic={"coef": coef, "warmup_steps": 1})
        updater = _updater(model, algorithm, keep=True)
        batch = _batch(random_groups(3))
        updater.update(assign_credit(updater.measure(batch), algorithm))
        found.append(updater.critic.optimizer.gradients[0]["head.weight"])
    torch.testing.assert_close(found[1], times * found[0])


def test_values_and_log_probabilities_of_one_trunk_are_measured_in_one_pass():
    model = tiny_llama()
    calls: list[int] = []
    updater = _updater(model, _ppo("head", num_iterations=2), micro_batch_tokens=4096)
    model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    updater.measure(_batch(random_groups(3)))
    assert len(calls) == 1
