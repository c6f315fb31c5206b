"""What a running experiment shows: a live table on a terminal, one plain line a step anywhere else.

The view only tells; it never ends a run. It takes no lock, as Ctrl-C may interrupt it anywhere: its methods
set attributes, and drawing, which rich does in a thread of its own, reads them.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rft.runs.metrics import out_of_range
from rft.runs.quiet import terminal

_STEP_PHASES = ("rollout", "update", "publish")
_BARS = "▁▂▃▄▅▆▇█"
_HEARTBEAT_S = 30.0
"""A plain view with nothing new to say repeats its progress this often."""


class View:
    """Shows a run while it runs.

        with View(recipe.train.steps) as view:
            view.phase("rollout")
            view.progress(3, 64)
            view.step({"reward/mean": 0.25, "time/rollout_s": 7.1})

    Args:
        total_steps: steps of the whole run, also when it resumes part way.
        quiet: show nothing.
        plain: lines instead of a live table; when unset, decided by the terminal, `CI` and `TERM`.
        unit: what is counted.
        console: where to show it; when unset, the process's stdout, also while `Quiet` redirects that.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        total_steps: int,
        quiet: bool = False,
        plain: bool | None = None,
        *,
        unit: str = "step",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_steps = total_steps
        self._unit = unit
        self.console = console or Console(file=terminal("stdout"), highlight=False)
        self._quiet = quiet
        self._plain = wants_plain(self.console) if plain is None else plain
        self._clock = clock
        self._live: Live | None = None
        self.done = 0
        """Completed steps; who resumes a run sets it, so that the count is right before the next step is."""
        self._metrics: Mapping[str, float] = {}
        self._rewards: list[float] = []
        self._heldout: list[tuple[str, float, float, float]] = []
        self._failures: dict[str, int] = {}
        self._advised: set[str] = set()
        self._phase = "starting"
        self._phase_since = self._line_since = clock()
        self._progress: tuple[int, int] | None = None
        # Ends of the last steps, for the time left; a run's first step is often its slowest.
        self._ends: deque[float] = deque(maxlen=9)
        self._spinner = Spinner("dots")
        self._ended = False

    def another(self, total_steps: int) -> View:
        """A fresh view in the same place, for what comes next."""
        return View(total_steps, self._quiet, self._plain, unit=self._unit, console=self.console)

    def __enter__(self) -> View:
        if not (self._quiet or self._plain):
            # rich would take over sys.stdout, which `Quiet` may have given to a log.
            self._live = Live(
                get_renderable=self.render,
                console=self.console,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self.phase("finished" if error is None else "stopped")
        if self._live is not None:
            self._live.stop()
            self._live = None

    def phase(self, name: str) -> None:
        """Says what the run does now: "loading model", "rollout", "update", "publish", "held-out", ..."""
        self._phase, self._progress, self._phase_since = name, None, self._clock()
        if not self._ends and name in _STEP_PHASES:
            self._ends.append(self._clock())
        if self._plain and name not in _STEP_PHASES and not self._ended:
            self._print(f"{name} ...")

    def progress(self, done: int, total: int) -> None:
        """How far the phase is, for example 41 of 64 rollouts scored."""
        self._progress = (done, total)
        if self._plain and self._clock() - self._line_since >= _HEARTBEAT_S:
            self._print(f"{self._unit} {self.done + 1}/{self.total_steps}  {self._phase} {done}/{total}")

    def step(self, metrics: Mapping[str, float], number: int | None = None) -> None:
        """A step is complete. `number` counts from 1; when unset, one more than the last."""
        self.done = self.done + 1 if number is None else number
        self._metrics = metrics
        self._ends.append(self._clock())
        self._progress = None
        if "reward/mean" in metrics:
            self._rewards = [*self._rewards, metrics["reward/mean"]]
        for key, value in metrics.items():
            if key.startswith("fail/") and value:
                kind = key.removeprefix("fail/")
                self._failures = {**self._failures, kind: self._failures.get(kind, 0) + int(value)}
        if self._plain:
            self._print("  ".join([f"{self._unit} {self.done}/{self.total_steps}", *self._facts()]))
        for key, advice in out_of_range(metrics).items():
            if key not in self._advised:
                self._advised.add(key)
                self.note(f"{self._unit} {self.done}: {advice}")

    def heldout(self, mean: float, low: float, high: float, when: str) -> None:
        """Reward on held-out tasks with its 95 % interval; `when` is "before", "after" or "step 10"."""
        self._heldout = [*self._heldout, (when, mean, low, high)]
        if self._plain:
            self._print(f"held-out reward {mean:.3f} [{low:.3f}, {high:.3f}] ({when})")

    def note(self, text: str) -> None:
        """One line that stays on the screen."""
        self._print(text)

    @property
    def seconds_left(self) -> float | None:
        """From the mean of the last steps, all their phases included; None before the first step ends."""
        if not self.done or len(self._ends) < 2:
            return None
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return max(0.0, each * (self.total_steps - self.done) - (self._clock() - self._ends[-1]))

    def render(self) -> Group:
        """The live table as it stands."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        left = self.seconds_left
        head = f"{self.done} of {self.total_steps}" + (
            f" · {duration(left)} left" if left is not None else ""
        )
        table.add_row(self._unit, Text(head, style="bold"))
        if self._rewards:
            table.add_row("reward", f"{self._rewards[-1]:.3f}  {sparkline(self._rewards)}")
        if self._heldout:
            table.add_row("held-out", self._heldout_text())
        for label, value in (
            ("", self._loss()),
            ("speed", self._speed()),
            ("time", self._times()),
            ("failures", self._failed()),
        ):
            if value:
                table.add_row(label, value)
        return Group(table, self._phase_row())

    def _phase_row(self) -> Table:
        row = Table.grid(padding=(0, 1))
        text = f"{self._phase} {duration(self._clock() - self._phase_since)}"
        if self._ended:
            row.add_row(Text(self._phase, style="dim"))
        elif self._progress is None:
            row.add_row(self._spinner, text)
        else:
            done, total = self._progress
            row.add_row(self._spinner, text, ProgressBar(total, done, width=30), f"{done} of {total}")
        return row

    def _facts(self) -> list[str]:
        """The parts of a plain line; what was not measured is left out."""
        left = self.seconds_left
        facts = [
            f"reward {self._rewards[-1]:.3f}" if "reward/mean" in self._metrics else self._loss(),
            f"held-out {self._heldout[-1][1]:.3f}" if self._heldout else "",
            self._speed(),
            self._times(),
            f"failures {self._failed()}" if self._failures else "",
            f"{duration(left)} left" if left is not None else "",
        ]
        return [fact for fact in facts if fact]

    def _heldout_text(self) -> str:
        when, mean, low, high = self._heldout[-1]
        text = f"{mean:.3f} [{low:.3f}, {high:.3f}] {when}"
        first = self._heldout[0]
        return f"{text} · {first[1]:.3f} {first[0]}" if len(self._heldout) > 1 else text

    def _loss(self) -> str:
        """Only of learning from examples: with rewards, a loss says nothing."""
        loss = None if self._rewards else self._metrics.get("loss")
        return f"loss {loss:.3f}" if loss is not None else ""

    def _speed(self) -> str:
        speed = self._metrics.get("rollout/tokens_per_s")
        return f"{speed:.0f} tokens/s" if speed is not None else ""

    def _times(self) -> str:
        found = [(phase, self._metrics.get(f"time/{phase}_s")) for phase in _STEP_PHASES]
        return " ".join(
            f"{phase} {seconds:.0f}s" if seconds >= 10 else f"{phase} {seconds:.1f}s"
            for phase, seconds in found
            if seconds is not None
        )

    def _failed(self) -> str:
        ranked = sorted(self._failures.items(), key=lambda item: -item[1])
        return " ".join(f"{kind}={count}" for kind, count in ranked)

    def _print(self, text: str) -> None:
        self._line_since = self._clock()
        if self._quiet:
            return
        try:
            if self._live is not None:
                self.console.print(Text(text), soft_wrap=True)
                self._live.refresh()
            else:  # rich would end the process when the reader of a pipe has gone
                print(text, file=self.console.file, flush=True)
        except OSError:  # the terminal or the reader of the pipe has gone; the run goes on
            self._quiet = True


def wants_plain(console: Console) -> bool:
    """Whether a live display would only leave rubbish: no terminal, a dumb one, or a log of a CI job."""
    return not console.file.isatty() or os.environ.get("TERM") in ("dumb", None) or bool(os.environ.get("CI"))


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The last values as bars between their smallest and largest.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    shown = [value for value in values[-width:] if value == value]
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / span * top) if span else 0] for value in shown)


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(59), duration(192), duration(7260)
    ('59s', '3m 12s', '2h 01m')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
