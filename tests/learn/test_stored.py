"""A batch that goes to a file comes back whole, and what is not a number in it is found."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from learn_cases import batch_of, measured, random_groups

from rft.learn.stored import batch_from, batch_state, not_finite

BATCH = measured(batch_of(random_groups(2)))


def test_every_field_comes_back_from_a_file_of_plain_values(tmp_path):
    torch.save(batch_state(BATCH), tmp_path / "batch.pt")
    found = batch_from(torch.load(tmp_path / "batch.pt", weights_only=True))
    for field in fields(BATCH):
        ours, theirs = getattr(found, field.name), getattr(BATCH, field.name)
        if isinstance(theirs, torch.Tensor):
            assert torch.equal(ours, theirs), field.name
        else:
            assert ours == theirs, field.name


def test_no_graph_is_stored():
    values_N = BATCH.values_N.clone().requires_grad_()
    assert not batch_state(replace(BATCH, values_N=values_N * 2))["values_N"].requires_grad


def test_sound_numbers_are_not_told():
    assert not_finite(BATCH) == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["advantages_N", "old_logprobs_N", "values_N", "rewards_S"])
def test_a_bad_number_is_told_with_its_rollout_and_field(name, bad):
    spoiled = getattr(BATCH, name).clone()
    index = len(spoiled) // 2
    spoiled[index] = bad
    sequence = index if name.endswith("_S") else int(BATCH.sequence_N[index])
    rollout_id = BATCH.sequences[sequence].rollout_id
    assert not_finite(replace(BATCH, **{name: spoiled})) == {rollout_id: [name]}


def test_the_sampler_may_have_given_no_log_probability_but_no_infinite_one():
    for bad, told in (
        (float("nan"), {}),
        (-float("inf"), {BATCH.sequences[0].rollout_id: ["sampler_logprobs_N"]}),
    ):
        spoiled = BATCH.sampler_logprobs_N.clone()
        spoiled[0] = bad
        assert not_finite(replace(BATCH, sampler_logprobs_N=spoiled)) == told


def test_a_part_without_a_number_is_no_fault():
    sequences = len(BATCH.sequences)
    parts_SK = torch.full((sequences, 1), float("nan"))
    assert not_finite(replace(BATCH, parts_SK=parts_SK, part_names=("style",))) == {}
