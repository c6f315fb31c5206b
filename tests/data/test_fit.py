import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft.data.fit import fit_prompts
from rft.errors import DataError
from rft.types import Task


def words(task):
    return len(task.prompt.split())


def tasks(*lengths):
    return [Task(f"t{index}", " ".join("x" * length)) for index, length in enumerate(lengths)]


def test_prompts_that_do_not_fit_are_left_out_whole_and_accounted_for():
    fitting, dropped = fit_prompts(tasks(3, 9, 5, 7), words, 5)
    assert [task.id for task in fitting] == ["t0", "t2"]
    assert (dropped.count, dropped.total, dropped.longest, dropped.example_id) == (2, 4, 9, "t1")
    assert str(dropped) == (
        "2 of 4 prompts have more than 5 tokens and are left out; the longest has 9 (task t1)"
    )


def test_when_all_fit_the_account_says_so():
    fitting, dropped = fit_prompts(tasks(3, 5), words, 5)
    assert len(fitting) == 2 and dropped.count == 0 and dropped.example_id is None
    assert str(dropped) == "all 2 prompts fit; the longest has 5 tokens"


def test_none_fitting_is_an_error_that_says_what_would():
    with pytest.raises(DataError, match="none of 2 prompts fits into 5 tokens; the shortest has 6"):
        fit_prompts(tasks(6, 7), words, 5)


@given(st.lists(st.integers(1, 20), min_size=1), st.integers(1, 20))
def test_nothing_is_cut_and_nothing_is_lost(lengths, limit):
    given_tasks = tasks(*lengths)
    if min(lengths) > limit:
        with pytest.raises(DataError):
            fit_prompts(given_tasks, words, limit)
        return
    fitting, dropped = fit_prompts(given_tasks, words, limit)
    assert fitting == [task for task in given_tasks if words(task) <= limit]
    assert len(fitting) + dropped.count == len(given_tasks) and dropped.longest == max(lengths)
