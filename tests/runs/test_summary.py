import io
import json
from pathlib import Path

from rich.console import Console

from rft.runs.checkpoint import Best
from rft.runs.summary import Answer, Summary
from rft.stats import Estimate

DONE = Summary(
    run="runs/sort/20260314-092653-k7f3",
    steps=60,
    seconds=312.4567,
    peak_rss_gb=2.34567,
    heldout_before=Estimate(0.06, 0.02, 0.10),
    heldout_after=Estimate(0.41, 0.33, 0.49),
    difference=Estimate(0.35, 0.27, 0.43),
    answers=[
        Answer("Sort: 3 1 2", "Sure!\nHere | there", "1 2 3", 0.0, 1.0),
        Answer("x" * 1000, "[bold]", "", None, 0.5),
    ],
)


def shown(summary):
    console = Console(file=io.StringIO(), width=120)
    console.print(summary)
    return console.file.getvalue()


def test_the_json_line_has_exactly_the_promised_keys():
    assert json.loads(json.dumps(DONE.to_json())) == {
        "run": "runs/sort/20260314-092653-k7f3",
        "steps": 60,
        "heldout_before": 0.06,
        "heldout_after": 0.41,
        "heldout_interval": [0.27, 0.43],
        "seconds": 312.457,
        "peak_rss_gb": 2.346,
        "best": None,
    }


def test_without_a_held_out_set_the_keys_are_there_and_null():
    values = Summary("runs/a/b", 3, 1.0, 0.5).to_json()
    assert [values[key] for key in ("heldout_before", "heldout_after", "heldout_interval")] == [None] * 3


def test_the_terminal_shows_both_means_the_difference_and_answers_side_by_side():
    text = shown(DONE)
    for part in ("0.060 [0.020, 0.100]", "0.410 [0.330, 0.490]", "+0.350 [0.270, 0.430]", "5m 12s", "2.3 GB"):
        assert part in text
    assert any("Sort: 3 1 2" in line and "Sure!" in line and "1 2 3" in line for line in text.splitlines())
    assert "[bold]" in text
    assert "[no score]" in text
    assert "…" in text


def test_the_best_checkpoint_is_named_with_its_reward():
    good = Summary("runs/a/b", 3, 1.0, 0.5, best=Best(Path("runs/a/b/checkpoints/step-000002"), 0.4567))
    assert good.to_json()["best"] == "runs/a/b/checkpoints/step-000002"
    assert "runs/a/b/checkpoints/step-000002 (held-out 0.457)" in good.to_markdown()


def test_a_fall_has_its_sign():
    worse = Summary("runs/a/b", 3, 1.0, 0.5, difference=Estimate(-0.1, -0.2, 0.0))
    assert "-0.100 [-0.200, 0.000]" in shown(worse)


def test_the_report_stays_one_table_row_per_answer_whatever_the_model_wrote():
    report = DONE.to_markdown()
    assert "| Sort: 3 1 2 | [0.00] Sure!<br>Here \\| there | [1.00] 1 2 3 |" in report
    assert report.startswith("# runs/sort/20260314-092653-k7f3\n")
    assert "| held-out after | 0.410 [0.330, 0.490] |" in report


def test_nothing_measured_says_so():
    text = shown(Summary("runs/a/b", 3, 1.0, 0.5))
    assert "not measured" in text
    assert "difference" not in text
