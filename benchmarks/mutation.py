"""How many small faults, put into rft/learn one at a time, its tests notice.

    .venv/bin/python benchmarks/mutation.py                        # a seventh of all mutants
    .venv/bin/python benchmarks/mutation.py --files loss,gae --fraction 1
    .venv/bin/python benchmarks/mutation.py --lost mutants.jsonl   # those once more that survived a run

A mutant is a file with one change (`_mutants.py`). The sample is drawn file by file and seeded: a run over
some files meets the same mutants as a run over all. rft and its tests are copied aside, and the copy stays
as it is too: a mutant lives in the memory of one process. The parent has collected the tests of
tests/learn, and forks; a child turns into the mutant and runs the tests that reach the changed line, the
file's own first, then the cheapest, until one fails. Which test reaches what is measured once at the start.

Killed: a test failed, the file cannot be imported, or the process died or took far more processor time than
the tests should (endless loops). Survived: all passed, or no test reaches the line. Tests elsewhere in
tests/ are not asked, so the share is a lower bound of what the suite notices.

mutmut 3.3.1 does not work here: pytest has imported rft, which brings a plugin, before mutmut's copy of it
can be found, and so its "forced failure" passes. In one warm process a mutant takes half a second.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from _common import ROOT, machine, table
from _mutants import Mutant, functions, mutants, plant

LEARN = "rft/learn"
TESTS = "tests/learn"
MORE_S = 15.0  # processor seconds beyond ten times what the tests take without a mutant: then it is killed
NEEDED = ("rft", "tests", "evaluators", "environments", "recipes", "pyproject.toml")
HANGS_S = 600.0  # a child that waits for nothing uses no processor time

# A test's processor seconds, and the lines it reached by file.
Reach = dict[str, tuple[float, dict[str, list[int]]]]


def main() -> None:
    """Draws, runs, writes one line a mutant to `--out`, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--fraction", type=float, default=0.15, help="of each file's mutants, at least 4 of each"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", default="", help="names in rft/learn, comma-separated; all when empty")
    parser.add_argument(
        "--tests", default="", help="files in tests/learn to ask, comma-separated; all when empty"
    )
    parser.add_argument(
        "--budget", type=float, default=30.0, help="most processor seconds of tests for a mutant"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="then it reports what has run until then")
    parser.add_argument("--lost", type=Path, help="a run's --out: only the mutants that survived there")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument(
        "--reach", type=Path, help="keeps what the tests reach, for a second run of one commit"
    )
    options = parser.parse_args()

    import pytest

    with tempfile.TemporaryDirectory(prefix="rft-mutation-") as folder:
        copy = _copy(Path(folder))
        tests = _names(options.tests) or sorted(path.stem for path in (copy / TESTS).glob("test_*.py"))
        run = _Run(copy, options)
        files = [f"{TESTS}/{name}.py" for name in tests]
        code = pytest.main(["-q", "-s", "-p", "no:cacheprovider", *files], plugins=[run])
    if not run.results:
        raise SystemExit(f"mutation: nothing ran, pytest ended with {code}")
    _say(run.results)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _copy(folder: Path) -> Path:
    """The repository's files as they stand, in `folder`, from which everything is imported from now on."""
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z", *NEEDED],
        capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name in ("evaluators", "environments"):  # as installed; pyproject.toml, package-dir
        (folder / "rft" / name).symlink_to(folder / name)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    return folder


def _draw(copy: Path, names: list[str], options: argparse.Namespace) -> list[Mutant]:
    """The mutants of this run."""
    every = {name: mutants(f"{LEARN}/{name}.py", (copy / LEARN / f"{name}.py").read_text()) for name in names}
    if options.lost:
        lines = map(json.loads, (ROOT / options.lost).read_text().splitlines())
        lost = {_key(line) for line in lines if line["outcome"] == "survived"}
        return [one for many in every.values() for one in many if _key(vars(one)) in lost]
    drawn = []
    for name, many in every.items():
        count = min(len(many), max(4, round(options.fraction * len(many))))
        drawn += random.Random(f"{options.seed}/{name}").sample(many, count)
    random.Random(options.seed).shuffle(drawn)  # a run cut short is a smaller sample, not half the files
    return drawn


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("file", "line", "column", "what"))


class _Run:
    """A pytest plugin that takes the place of the loop over the collected tests."""

    def __init__(self, copy: Path, options: argparse.Namespace) -> None:
        self.results: list[dict[str, Any]] = []
        self._copy, self._options = copy, options
        self._failed: list[str] = []

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        # The same examples every time; one that fails is enough, the smallest is not looked for.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", phases=phases, database=None, derandomize=True, deadline=None)
        settings.load_profile("mutation")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._failed.append(report.nodeid)

    def pytest_runtestloop(self, session: Any) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        reach = self._reach()
        names = _names(self._options.files) or sorted(path.stem for path in (self._copy / LEARN).glob("*.py"))
        with (ROOT / self._options.out).open("w", buffering=1) as out:
            self._functions = functions(self._copy / LEARN)
            gc.collect()
            gc.freeze()  # a child that looks for garbage would copy every page of the parent
            began = time.time()
            for mutant in _draw(self._copy, names, self._options):
                if time.time() - began > 60 * self._options.minutes:
                    break
                self.results.append(result := self._judge(mutant, reach))
                out.write(json.dumps(result) + "\n")
                print(*result.values(), file=sys.stderr)
        return True

    def _ask(self, tests: list[str]) -> str:
        """Runs tests in this process until one fails: its name, or nothing."""
        for test in tests:
            item = self._items[test]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if self._failed:
                return test
        return ""

    def _reach(self) -> Reach:
        """What each test reaches, each run once without a mutant. Raises SystemExit when one fails."""
        keep: Path | None = self._options.reach
        if keep and (ROOT / keep).exists():
            return json.loads((ROOT / keep).read_text())

        print(f"what {len(self._items)} tests reach is measured first", file=sys.stderr)

        def work() -> Reach:
            reach = {}
            for test in self._items:
                with _traced(str(self._copy / LEARN)) as lines:
                    began = time.process_time()
                    if self._ask([test]):
                        return {test: (-1.0, {})}
                    seconds = time.process_time() - began
                reach[test] = (seconds, {LEARN + name: sorted(found) for name, found in lines.items()})
            return reach

        reach = _fork(work, 3600.0)
        if not reach or len(reach) < len(self._items):
            raise SystemExit(f"mutation: a test fails without a mutant: {', '.join(reach or ['it crashed'])}")
        if keep:
            (ROOT / keep).write_text(json.dumps(reach))
        return reach

    def _judge(self, mutant: Mutant, reach: Reach) -> dict[str, Any]:
        """One mutant's outcome."""
        own = f"{TESTS}/test_{Path(mutant.file).stem}"
        # What runs on import is reached before any test, and measured with none.
        found = [
            test for test, (_, by_file) in reach.items()
            if set(mutant.lines) & set(by_file.get(mutant.file, ()))
            or (mutant.on_import and (mutant.file in by_file or test.startswith(own)))
        ]  # fmt: skip
        found.sort(key=lambda test: (not test.startswith(own), reach[test][0]))
        asked, cost = [], 0.0
        for test in found:
            if cost + reach[test][0] <= self._options.budget:
                asked.append(test)
                cost += reach[test][0]

        def work() -> str:
            try:
                plant(mutant, self._copy, self._functions)
            except Exception as error:
                return f"import: {error!r}"
            return self._ask(asked)

        began = time.time()
        by = _fork(work, MORE_S + 10 * cost) if asked else ""
        return {
            "file": mutant.file,
            "line": mutant.line,
            "column": mutant.column,
            "what": mutant.what,
            "outcome": "survived" if by == "" else "killed",
            "by": "time or a crash" if by is None else by,
            "asked": len(asked),
            "reached_by": len(found),
            "wall_s": round(time.time() - began, 1),
        }


@contextlib.contextmanager
def _traced(folder: str) -> Iterator[dict[str, set[int]]]:
    """The lines of the folder's files that are reached inside."""
    reached: dict[str, set[int]] = defaultdict(set)

    def enter(frame: Any, event: str, arg: Any) -> Callable[..., Any] | None:
        path = frame.f_code.co_filename
        if not path.startswith(folder):
            return None
        lines = reached[path.removeprefix(folder)]

        def step(frame: Any, event: str, arg: Any) -> Callable[..., Any]:
            lines.add(frame.f_lineno)
            return step

        return step(frame, event, arg)

    sys.settrace(enter)
    try:
        yield reached
    finally:
        sys.settrace(None)


def _fork(work: Callable[[], Any], limit_s: float) -> Any:
    """What `work` returns in a child of its own; None when it died or ran past its processor seconds."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        with contextlib.suppress(BaseException), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            used = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (int(used + limit_s) + 1,) * 2)
            signal.alarm(int(HANGS_S + 20 * limit_s))
            answer = json.dumps(work()).encode()
            with open(write, "wb") as pipe:
                pipe.write(answer)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


def _say(results: list[dict[str, Any]]) -> None:
    """The table by file, the survivors, the share and its 95 % interval."""
    from scipy.stats import binomtest

    run = Counter(r["file"] for r in results)
    killed = Counter(r["file"] for r in results if r["outcome"] == "killed")
    print(table([{"file": f, "mutants": run[f], "killed": killed[f]} for f in sorted(run)]))
    for r in results:
        if r["outcome"] == "survived":
            print(f"survived: {r['file']}:{r['line']} {r['what']} ({r['asked']} tests asked)")
    num, num_killed = run.total(), killed.total()
    low, high = binomtest(num_killed, num).proportion_ci(method="wilson")
    print(f"{num_killed} of {num} killed: {num_killed / num:.3f}, {low:.3f} to {high:.3f} at 95 %")
    print(f"{machine()['commit']}, {machine()['date']}")


if __name__ == "__main__":
    main()
