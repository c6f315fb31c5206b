import io
import os
import pty
import threading

import pytest
from rich.console import Console

from rft.runs.view import View, duration, sparkline, wants_plain

STEP = {
    "reward/mean": 0.25,
    "rollout/tokens_per_s": 284.4,
    "time/rollout_s": 7.12,
    "time/update_s": 18.4,
    "time/publish_s": 0.021,
}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def plain_view(steps=60):
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, width=80)
    return View(steps, plain=True, console=console, clock=clock), text, clock


def drawn(view):
    console = Console(file=io.StringIO(), width=100)
    console.print(view.render())
    return console.file.getvalue()


def test_without_a_terminal_each_step_is_one_line():
    view, text, clock = plain_view()
    with view:
        view.phase("rollout")  # at 0 s
        clock.now = 30.0
        view.step({**STEP, "fail/timeout": 2, "fail/server": 0})
        clock.now = 60.0
        view.step({**STEP, "reward/mean": 0.5, "fail/timeout": 1})
    first, second = text.getvalue().splitlines()
    assert first == (
        "step 1/60  reward 0.250  284 tokens/s  rollout 7.1s update 18s publish 0.0s  "
        "failures timeout=2  29m 30s left"
    )
    assert second.startswith("step 2/60  reward 0.500")
    assert "failures timeout=3  29m 00s left" in second


def test_a_resumed_run_goes_on_counting_from_its_step():
    view, text, _ = plain_view()
    view.done = 40
    view.step(STEP)
    view.step(STEP, number=42)
    assert [line.split("  ")[0] for line in text.getvalue().splitlines()] == ["step 41/60", "step 42/60"]


def test_phases_before_the_first_step_are_told_so_that_nothing_looks_hung():
    view, text, _ = plain_view()
    view.phase("starting engine")
    view.phase("rollout")
    assert text.getvalue() == "starting engine ...\n"


def test_the_time_left_does_not_count_the_start_of_the_engine():
    view, text, clock = plain_view(steps=3)
    view.phase("starting engine")
    clock.now = 100.0
    view.phase("rollout")
    clock.now = 110.0
    view.step(STEP)
    assert text.getvalue().endswith("  20s left\n")


def test_a_long_rollout_tells_its_progress_now_and_then():
    view, text, clock = plain_view()
    view.phase("rollout")
    for second in range(0, 61, 10):
        clock.now = float(second)
        view.progress(second, 64)
    assert text.getvalue().splitlines() == ["step 1/60  rollout 30/64", "step 1/60  rollout 60/64"]


def test_a_metric_that_leaves_its_range_is_explained_once():
    view, text, _ = plain_view()
    for _ in range(2):
        view.step({"rollout/truncated_frac": 0.6})
    assert text.getvalue().count("raise rollout.max_new_tokens") == 1


def test_held_out_reward_is_told_with_its_interval_and_kept_in_the_steps_line():
    view, text, _ = plain_view()
    view.heldout(0.31, 0.25, 0.37, "before")
    view.step(STEP)
    assert text.getvalue().splitlines()[0] == "held-out reward 0.310 [0.250, 0.370] (before)"
    assert "held-out 0.310" in text.getvalue().splitlines()[1]


def test_quiet_shows_nothing():
    text = io.StringIO()
    with View(3, quiet=True, console=Console(file=text)) as view:
        view.phase("rollout")
        view.step(STEP)
        view.note("checkpoint written")
    assert text.getvalue() == ""


def test_brackets_in_a_note_are_text_not_markup():
    view, text, _ = plain_view()
    view.note("evaluator said [red]no[/red] [0, 1]")
    assert text.getvalue() == "evaluator said [red]no[/red] [0, 1]\n"


def test_the_live_table_holds_what_the_step_gave():
    view, _, clock = plain_view()
    view.heldout(0.06, 0.02, 0.10, "before")
    view.phase("rollout")
    for reward in (0.0, 0.5, 1.0):
        clock.now += 10
        view.step({**STEP, "reward/mean": reward, "fail/server": 1})
    view.heldout(0.31, 0.25, 0.37, "step 3")
    text = drawn(view)
    for part in (
        "3 of 60 · 9m 30s left",
        "1.000  ▁▅█",
        "0.310 [0.250, 0.370] step 3 · 0.060 before",
        "284 tokens/s",
        "update 18s",
        "server=3",
    ):
        assert part in text


def test_the_table_can_be_drawn_before_anything_happened():
    view, _, _ = plain_view()
    assert "0 of 60" in drawn(view)


def test_on_a_terminal_it_is_live_and_leaves_the_cursor_visible_after_ctrl_c(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    leader, follower = pty.openpty()
    received = bytearray()

    def receive():
        while chunk := read(leader):
            received.extend(chunk)

    thread = threading.Thread(target=receive)
    thread.start()
    with open(follower, "w") as file:
        with pytest.raises(KeyboardInterrupt), View(60, console=Console(file=file, width=80)) as view:
            view.phase("rollout")
            view.progress(41, 64)
            view.note("a note")
            raise KeyboardInterrupt
        file.flush()
    thread.join(10)
    os.close(leader)
    shown = received.decode()
    assert "41 of 64" in shown
    assert "a note" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") > -1


def read(descriptor):
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end was closed
        return b""


def test_a_reader_that_goes_away_does_not_end_the_run():
    reader, writer = os.pipe()
    os.close(reader)
    view = View(60, plain=True, console=Console(file=open(writer, "w", buffering=1)))  # noqa: SIM115  # never flushes
    view.step(STEP)
    view.step(STEP)


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb"), ("TERM", None)])
def test_a_terminal_that_cannot_redraw_gets_plain_lines(monkeypatch, name, value):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=Terminal())
    assert not wants_plain(console)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert wants_plain(console)


def test_equal_values_make_a_flat_line():
    assert sparkline([0.3, 0.3]) == "▁▁"
    assert sparkline([float("nan")]) == ""
    assert duration(3600) == "1h 00m"
