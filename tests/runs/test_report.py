"""`rft runs metrics`: last values, their course, and a mark where one is out of its range."""

import io

from rich.console import Console

from rft.runs.report import describe_metrics, metrics_table

ROWS = [
    {"step": 1, "grad_norm": 500.0, "reward/mean": 0.1, "entropy": 2.0, "fail/timeout": 1.0},
    {"step": 2, "grad_norm": None, "reward/mean": 0.5, "entropy": 0.5, "my/own": 3.0},
    {"step": 3, "grad_norm": 2.0, "reward/mean": 0.9, "entropy": 0.001},
]


def printed(found):
    console = Console(file=io.StringIO(), width=200)
    console.print(metrics_table(found))
    return {line.split()[0]: line for line in console.file.getvalue().splitlines()[1:]} | {
        line.split()[1]: line for line in console.file.getvalue().splitlines()[1:] if line.startswith("!")
    }


def test_a_runs_metrics_have_their_last_value_their_course_and_how_often_they_were_outside():
    found = {one["key"]: one for one in describe_metrics(ROWS)}
    assert list(found) == ["reward/mean", "fail/timeout", "grad_norm", "entropy", "my/own"]
    assert found["grad_norm"]["values"] == [500.0, None, 2.0]
    assert (found["grad_norm"]["healthy"], found["grad_norm"]["outside"]) == (True, 2)
    assert (found["entropy"]["healthy"], found["entropy"]["outside"]) == (False, 1)
    assert (found["reward/mean"]["healthy"], found["reward/mean"]["last"]) == (None, 0.9)


def test_the_table_marks_what_is_out_of_range_and_says_what_to_set():
    lines = printed(describe_metrics(ROWS))
    assert "0.9" in lines["reward/mean"] and "▁▅█" in lines["reward/mean"]
    assert lines["entropy"].startswith("!") and "raise rollout.temperature" in lines["entropy"]
    assert "length of the gradient before clipping (outside in 2 of 3 steps)" in lines["grad_norm"]


def test_without_a_run_the_table_is_the_whole_one():
    found = describe_metrics(None)
    assert len(found) > 60 and "last" not in found[0]
    assert "reward/part/<name>" in printed(found)
