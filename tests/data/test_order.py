import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft.data.order import TaskOrder
from rft.errors import DataError
from rft.types import Task


def tasks(n, prefix="t"):
    return [Task(f"{prefix}{index}", str(index)) for index in range(n)]


def ids(taken):
    return [task.id for task in taken]


sizes, seeds = st.integers(1, 12), st.integers(0, 5)


@given(sizes, seeds, st.integers(1, 4))
def test_every_epoch_hands_out_every_task_once(n, seed, epochs):
    order = TaskOrder(tasks(n), seed=seed)
    for _ in range(epochs):
        assert sorted(ids(order.take(n))) == sorted(ids(tasks(n)))


@given(sizes, seeds, st.lists(st.integers(0, 9), max_size=6))
def test_the_order_does_not_depend_on_how_it_is_taken(n, seed, cuts):
    whole = TaskOrder(tasks(n), seed=seed).take(sum(cuts))
    pieces = TaskOrder(tasks(n), seed=seed)
    assert [task for cut in cuts for task in pieces.take(cut)] == whole


@given(sizes, seeds, st.integers(0, 30), st.integers(1, 30))
def test_a_restored_order_goes_on_exactly_where_it_stopped(n, seed, before, after):
    order = TaskOrder(tasks(n), seed=seed)
    order.take(before)
    state = json.loads(json.dumps(order.state()))
    restored = TaskOrder(tasks(n), seed=seed)
    restored.take(3)  # whatever it did before does not matter
    restored.restore(state)
    assert restored.take(after) == order.take(after)


def test_epochs_and_seeds_have_orders_of_their_own():
    order = TaskOrder(tasks(20), seed=1)
    first, second = ids(order.take(20)), ids(order.take(20))
    assert first != second
    assert ids(TaskOrder(tasks(20), seed=2).take(20)) != first
    assert ids(TaskOrder(tasks(20), seed=1).take(20)) == first


def test_the_order_rests_on_the_one_generator_that_python_promises_to_keep():
    generator = random.Random("0/0")
    drawn = {f"t{index}": generator.random() for index in range(6)}
    assert ids(TaskOrder(tasks(6), seed=0).take(6)) == sorted(drawn, key=drawn.get)


def test_without_shuffling_the_order_is_the_files():
    assert ids(TaskOrder(tasks(3), seed=1, shuffle=False).take(5)) == ["t0", "t1", "t2", "t0", "t1"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (TaskOrder(tasks(4), seed=0), "tasks changed"),
        (TaskOrder(tasks(3, "x"), seed=0), "tasks changed"),
        (TaskOrder(tasks(3), seed=1), "seed changed"),
        (TaskOrder(tasks(4), seed=0, shuffle=False), "tasks and shuffle changed"),
    ],
)
def test_an_order_over_other_tasks_is_not_resumed(other, said):
    with pytest.raises(DataError, match=said):
        other.restore(TaskOrder(tasks(3), seed=0).state())


def test_no_tasks_are_an_error():
    with pytest.raises(DataError, match="no tasks"):
        TaskOrder([], seed=0)
