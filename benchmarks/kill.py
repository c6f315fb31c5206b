"""Killed at random moments and gone on with: does a run end where an uninterrupted one does?

    .venv/bin/python benchmarks/kill.py --trials 20

`rft train` on the packaged tiny model with the real engine, a checkpoint and a held-out evaluation at every
step. Each trial is killed (SIGKILL, the whole process group) once or twice, resumed each time with `rft train
--resume`, and let run to its end. The moments are drawn, seeded: every fourth while the process starts, the
others from its first rollouts to its end, each from its own share of that time, so that rollouts, updates,
checkpoints, evaluations and the final report all get their turn. They are counted in the process's own CPU
seconds: what else the machine does shifts nothing.

Importing the libraries is half of a short run. So this process imports them once, and each start is a fork of
it, until `--cold` asks for new processes. The run that all are compared with is cold in either case.

Equal means: SHA-256 over all tensors of the last checkpoint's weights and over each part of its memory
(optimizer, counts, random numbers), what it would have sampled next, and every metric of every step except
seconds, memory, and how many verdicts the cache gave.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from _common import show, table

RFT = Path(sys.executable).with_name("rft")
RECIPE = """\
name: killed
seed: 3
model: {source: packaged:tiny}
data: {train: tasks.jsonl}
evaluator: ./grader.py:early_letters
rollout: {group_size: 4, max_new_tokens: 16}
train:
  prompts_per_step: 4
  learning_rate: 1e-3
  optimizer: {schedule: cosine, warmup_steps: 1}
  checkpoint: {every: 1, keep: 2}
eval: {tasks: 4, every: 1, temperature: 1.0}
"""
GRADER = """\
from rft import evaluator


@evaluator
def early_letters(text):
    return sum(byte % 64 < 32 for byte in text.encode()) / max(1, len(text.encode()))
"""
_STEPS = 10
_MOODS = ("time/", "memory/", "rollout/tokens_per_s", "eval/cached")
"""Metrics that depend on the machine's mood."""
_HEAVY = (
    *("vllm.engine.arg_utils", "vllm.v1.engine.llm_engine", "rft.cli", "rft.train", "rft.steplog"),
    *("rft.engine.vllm", "rft.learn.update", "rft.models.policy"),
)


Start = Callable[[list[str], Path], int]
"""Starts `rft` with these words in a folder, as the leader of a process group; gives its pid."""


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="import the libraries anew at each start")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--keep", type=Path, help="a folder for the runs, instead of one that is removed")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(options, options.keep or Path(temporary))
    equal = sum(row["equal"] for row in result["trials"])
    say = f"{equal} of {options.trials} killed runs end as an uninterrupted one"
    show({"equal": equal, **result}, options.json, lambda: print(table(result["trials"]), say, sep="\n"))


def measure(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Two uninterrupted runs, then the trials."""
    recipe = [f"model.dtype={options.dtype}", f"train.steps={_STEPS}", *options.set]
    whole = Trial(root / "whole", recipe, cold)
    whole.run()
    start = cold if options.cold else warm()
    again = Trial(root / "again", recipe, start)
    again.run()
    expected = whole.end()
    if differs := difference(expected, again.end()):
        sys.exit(f"two uninterrupted runs differ, so nothing can be compared: {differs}")

    rows = []
    # In an order that has looked everywhere when it is stopped early.
    for number in random.Random(options.seed).sample(range(options.trials), options.trials):
        one = Trial(root / f"trial-{number:02d}", recipe, start)
        generator = random.Random(f"{options.seed}/{number}")
        share = (number + generator.random()) / options.trials
        moments_s = moments(generator, share, number, again.started_s, again.cpu_s)
        seen = [one.run(kill_at_s=moment_s) for moment_s in moments_s]
        one.run()
        differs = difference(expected, one.end())
        rows.append({"trial": number, "killed during": ", ".join(filter(None, seen)), "equal": not differs})
        print(json.dumps({**rows[-1], "differs": differs}), file=sys.stderr, flush=True)
    return {"cpu_s": again.cpu_s, "started_s": again.started_s, "recipe": recipe, "trials": rows}


def moments(
    generator: random.Random, share: float, number: int, started_s: float, life_s: float
) -> list[float]:
    """CPU seconds at which a trial's first process is killed, and every other trial's second one."""
    first_s, done = started_s + share * (life_s - started_s), share
    if number % 4 == 0:
        first_s, done = share * started_s, 0.0
    second_s = started_s + generator.random() * (1.0 - done) * (life_s - started_s)
    return [first_s, second_s] if number % 2 else [first_s]


def cold(words: list[str], folder: Path) -> int:
    """A new process."""
    with open(folder / "log.txt", "ab") as log:
        process = subprocess.Popen([RFT, *words], cwd=folder, stdout=log, stderr=log, start_new_session=True)
    return process.pid


def warm() -> Start:
    """Forks of this process. Sound, as everything is imported before the first, and nothing computed."""
    from rft.engine.open import prepare_process

    prepare_process()
    for name in _HEAVY:
        import_module(name)

    def start(words: list[str], folder: Path) -> int:
        return os.fork() or _become(words, folder)

    return start


def _become(words: list[str], folder: Path) -> NoReturn:
    code: Any = 1
    try:
        os.setsid()
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream, to in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
            os.dup2(to, stream)
        from rft.cli import main as rft

        rft(words)
    except SystemExit as left:
        code = left.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Trial:
    """One run in a folder of its own, started, killed and gone on with."""

    def __init__(self, folder: Path, recipe: list[str], start: Start) -> None:
        folder.mkdir(parents=True)
        self._folder, self._recipe, self._start = folder, recipe, start
        self.cpu_s = self.started_s = 0.0
        """CPU seconds of the last process, in all and up to its first rollouts."""
        (folder / "grader.py").write_text(GRADER)
        (folder / "killed.yaml").write_text(RECIPE)
        rows = [{"prompt": f"Say something about {number}."} for number in range(40)]
        (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, kill_at_s: float = float("inf")) -> str:
        """Starts the run or goes on with it, to its end or until killed; says what was under way then.

        Args:
            kill_at_s: CPU seconds of the process.
        """
        begun = bool(list(self._folder.glob("runs/killed/*/recipe.yaml")))
        words = ["train", "--resume", "killed"] if begun else ["train", "killed.yaml", *self._recipe]
        pid = self._start(words, self._folder)
        self.started_s = 0.0
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            self.cpu_s = _cpu_s(pid)
            if self.cpu_s >= kill_at_s:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return self._under_way(begun)
            if not self.started_s and list(self._folder.glob("runs/killed/*/rollouts/*")):
                self.started_s = self.cpu_s
            time.sleep(0.005)
        if ended[1] != 0:
            sys.exit(f"{self._folder} failed:\n{(self._folder / 'log.txt').read_text()[-3000:]}")
        return ""

    def _under_way(self, begun: bool) -> str:
        """What the files tell about the moment of the kill."""
        runs = list(self._folder.glob("runs/killed/*/recipe.yaml"))
        if not runs:
            return "start"
        run = runs[0].parent
        if (run / "report.md").exists():
            return "after the report"
        steps = Counter(path.name.partition("-")[0] for path in run.glob("rollouts/*.parquet"))
        metrics = run / "metrics.jsonl"
        recorded = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        if recorded == _STEPS:
            return "end"
        if list(run.glob("checkpoints/.step-*")):
            return f"checkpoint {recorded}"
        if steps["step"] > recorded:
            return f"evaluation {steps['step']}"
        if not steps["heldout"]:
            return "start"
        return f"step {recorded + 1}" if not begun else f"start or step {recorded + 1}"

    def end(self) -> dict[str, Any]:
        """What must be equal: name to value."""
        import torch
        from safetensors.torch import load_file

        (run,) = self._folder.glob("runs/killed/*/")
        newest = max(run.glob("checkpoints/step-*"))
        (weights,) = newest.glob("*.safetensors")
        memory = torch.load(newest / "trainer" / "memory.pt", weights_only=True)
        found = {"weights": _digest(load_file(weights))}
        for kind, parts in memory.items():
            found |= {f"{kind}.{name}": _digest(part) for name, part in parts.items()}
        found["supply"] = json.loads((newest / "trainer" / "state.json").read_text())["supply"]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for number, line in enumerate(lines):
            found |= {f"{number}.{key}": value for key, value in line.items() if not key.startswith(_MOODS)}
        return found


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _digest(value: Any) -> str:
    """SHA-256 of nested tensors and plain values."""
    import torch

    hashed = hashlib.sha256()

    def add(one: Any) -> None:
        if isinstance(one, dict):
            for key in sorted(one, key=str):
                hashed.update(repr(key).encode())
                add(one[key])
        elif isinstance(one, torch.Tensor):
            hashed.update(one.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(repr(one).encode())

    add(value)
    return hashed.hexdigest()


def difference(expected: dict[str, Any], got: dict[str, Any]) -> str:
    """What is not equal, in words; empty when all is."""
    names = [name for name in {**expected, **got} if expected.get(name) != got.get(name)]
    return ", ".join(f"{name} ({expected.get(name)}, {got.get(name)})" for name in names[:9])


if __name__ == "__main__":
    main()
