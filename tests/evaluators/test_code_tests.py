"""Code in the sandbox: what a program may not do to its host, and ways to fake a pass that do not work."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from pathlib import Path

import pytest

from rft import EvaluatorError, score
from rft.errors import UserError
from rft.evaluators import CodeTests, _sandbox, _sandbox_isolation
from rft.evaluators._sandbox import Bounds, run_program, run_tests

WAYS = {f"{way.name}-{number}": way for number, way in enumerate(_sandbox_isolation.ways())}
TESTS = ["assert add(1, 2) == 3", "assert add(20, 22) == 42", "assert abs(add(0.5, 0.25) - 0.75) < 1e-9"]
QUICK = Bounds(seconds=2.0, memory_mb=256)


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Every way to isolate that works on this machine; `bare` always does."""
    chosen = WAYS[request.param]
    if why := _works(request.param):
        pytest.skip(f"{request.param} does not work here: {why}")
    monkeypatch.setattr(_sandbox, "best", lambda: chosen)
    return chosen


@functools.cache
def _works(name):
    return _sandbox_isolation.works(WAYS[name])


def passed(source, tests=TESTS, **options):
    return asyncio.run(run_tests(source, tests, QUICK, **options)).passed


def run(source, stdin="", bounds=QUICK):
    return asyncio.run(run_program(source, stdin, bounds))


def test_a_right_program_passes_and_a_wrong_one_passes_what_it_gets_right(way):
    assert passed("def add(a, b): return a + b") == 3
    assert passed("def add(a, b): return 3 if (a, b) == (1, 2) else a - b") == 1


FAKES = {
    "exit 0": "import os\nos._exit(0)",
    "sys.exit": "import sys\nsys.exit(0)",
    "exit when called": "import os\ndef add(a, b): os._exit(0)",
    "prints the verdict": """print('{"passed": true, "why": null}')\nprint('{"done": true}')""",
    "writes to every descriptor": (
        "import os\nfor fd in range(64):\n"
        '    try: os.write(fd, b\'{"passed": true, "why": null}\\n{"done": true}\\n\')\n'
        "    except OSError: pass\n"
    ),
    "equal to everything": (
        "class Yes:\n    __eq__ = lambda s, o: True\n    __lt__ = __gt__ = __eq__\n    __hash__ = None\n"
        "    __abs__ = __sub__ = lambda s, *o: s\n"
        "def add(a, b): return Yes()"
    ),
    "equal to everything, as an int": (
        "class Yes(int):\n    __eq__ = lambda s, o: True\n    __sub__ = lambda s, o: s\n    __abs__ = bool\n"
        "def add(a, b): return Yes(7)"
    ),
    "replaces what the tests call": "abs = lambda x: 0\ndef add(a, b): return None",
    "patches the builtins": "import builtins\nbuiltins.abs = lambda x: 0.0\ndef add(a, b): return 0",
    "leaves when called": "def add(a, b): raise SystemExit(0)",
    "raises what passes": "def add(a, b): raise StopIteration",
    "looks through memory": (
        "import gc, sys\n"
        "def add(a, b):\n"
        "    frame, seen = sys._getframe(), []\n"
        "    while frame:\n        seen.append(repr(frame.f_locals)); frame = frame.f_back\n"
        "    seen += [repr(o)[:10000] for o in gc.get_objects() if isinstance(o, (dict, list, str))]\n"
        "    return 6 * 7 if any('== ' + str(6 * 7) in text for text in seen) else None"
    ),
    "looks through files": (
        "import os\n"
        "def add(a, b):\n"
        "    for folder, _, names in os.walk('/tmp'):\n"
        "        for name in names:\n"
        "            try:\n"
        "                if '== 42' in open(os.path.join(folder, name)).read(): return 42\n"
        "            except Exception: pass\n"
    ),
    "a lying channel": (
        "import os, json\n"
        "for fd in range(3, 20):\n"
        '    try: os.write(fd, b\'{"value": ["object", 0]}\\n\' * 50)\n'
        "    except OSError: pass\n"
        "def add(a, b): return None"
    ),
}


@pytest.mark.parametrize("fake", FAKES)
def test_a_pass_cannot_be_faked(fake):
    assert passed(FAKES[fake]) == 0


def test_with_namespaces_the_process_of_the_tests_is_out_of_sight(way):
    source = (
        "import os\n"
        "def add(a, b):\n"
        "    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "        try: command = open(f'/proc/{pid}/cmdline').read()\n"
        "        except OSError: continue\n"
        "        if int(pid) != os.getpid() and '_sandbox_inside' in command and 'bwrap' not in command:\n"
        "            return int(pid)\n"
        "    return -1\n"
    )
    assert passed(source, ["assert add(1, 2) == -1"]) == int(way.strong)


def test_a_script_sees_an_empty_environment_and_no_argument(way, monkeypatch):
    monkeypatch.setenv("RFT_TEST_TOKEN", "sesame")
    done = run("import os, sys\nprint(sorted(os.environ), sys.argv, open('/proc/self/environ').read())")
    assert done.why is None
    assert "sesame" not in done.output
    assert "RFT" not in done.output


def test_with_namespaces_there_is_no_network_no_home_and_nothing_to_write_but_tmp(way, tmp_path):
    if not way.strong:
        pytest.skip("bare does not promise this")
    secret = tmp_path / "answers.jsonl"
    secret.write_text("42")
    done = run(
        "import os, socket\n"
        "def tried(what):\n"
        "    try: what()\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "    else: print('worked')\n"
        f"tried(lambda: open({str(secret)!r}))\n"
        "tried(lambda: open('/usr/written', 'w'))\n"
        "tried(lambda: open(os.__file__, 'a'))\n"
        "tried(lambda: socket.create_connection(('127.0.0.1', 22), 1))\n"
        "tried(lambda: socket.getaddrinfo('example.org', 80))\n"
        "tried(lambda: open('/tmp/mine', 'w').write('x'))\n"
    )
    assert done.why is None
    assert done.output.split()[-1] == "worked"
    assert "worked" not in done.output.split()[:-1]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("while True: pass", "out of time"),
        ("import time\ntime.sleep(60)", "out of time"),
        ("while True: print('x' * 1000)", "wrote more than"),
        ("import os\nwhile True: os.write(2, b'x' * 1000)", "out of time"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "ended with an error"),
        ("open('big', 'wb').write(b'x' * (1 << 30))", "ended with an error"),
        ("raise ValueError", "ended with an error"),
        ("import os\nos.kill(os.getpid(), 9) or os._exit(1)", "ended with an error"),
        ("def", "ended with an error"),
    ],
)
def test_what_a_script_does_wrong_is_its_own_fault(source, why):
    done = run(source, bounds=Bounds(seconds=1.0, memory_mb=256))
    assert why in done.why
    assert done.output == "" or done.why == "ended with an error"


def test_processes_are_counted_and_none_outlives_its_program(way):
    if way.name == "bare" and os.getuid() == 0:
        pytest.skip("the kernel sets root no limit on processes")
    mark = f"rft-left-behind-{os.getpid()}-{way.name}"
    run(
        "import os, sys, time\n"
        "open('/proc/self/comm', 'w').write('x')\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        if os.fork() == 0:\n"
        "            try: os.setsid()\n"
        "            except OSError: pass\n"
        "            sleep = 'import time; time.sleep(30)'\n"
        f"            os.execv(sys.executable, [sys.executable, '-c', sleep, {mark!r}])\n"
        "    except OSError:\n"
        "        break\n"
        "else:\n"
        "    print('no limit')\n"
        "    sys.exit()\n"
        "time.sleep(30)\n",
        bounds=Bounds(seconds=1.0),
    )
    for _ in range(50):
        if way.name == "bare" or not _alive(mark):
            return
        time.sleep(0.1)
    assert not _alive(mark)


def _alive(mark):
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [command] if mark in command.read_text() else []
        except OSError:
            continue
    return found


def test_a_program_that_loops_keeps_what_it_had_passed():
    source = "def add(a, b):\n    while a == 20: pass\n    return a + b"
    tested = asyncio.run(run_tests(source, TESTS, QUICK))
    assert (tested.results, tested.total, tested.ended) == ([None], 3, "out of time")


def test_the_tests_know_the_programs_classes_exceptions_and_iterators():
    source = (
        "class Solution:\n"
        "    def __init__(self): self.seen = []\n"
        "    def push(self, x):\n        self.seen.append(x)\n"
        "    def top(self): return self.seen[-1]\n"
        "def squares(n): return (i * i for i in range(n))\n"
        "def root(x):\n    if x < 0: raise ValueError('negative')\n    return x ** 0.5\n"
        "LIMIT = {'a': (1, {2})}\n"
        "def sum(a, b): return a + b + 1\n"
    )
    tests = [
        "s = Solution()",
        "s.push(3)",
        "assert s.top() == 3",
        "assert list(squares(3)) == [0, 1, 4]",
        "def test_negative():\n    try: root(-1)\n    except ValueError: return\n    raise AssertionError",
        "assert LIMIT == {'a': (1, {2})} and type(LIMIT['a']) is tuple",
        "import math\nassert math.isclose(root(2), 1.41421356, rel_tol=1e-6)",
        "from solution import squares as sq\nassert list(sq(2)) == [0, 1]",
        "assert sum([1, 2]) == 3",
    ]
    tested = asyncio.run(run_tests(source, tests, QUICK))
    assert tested.results == [None] * 7
    assert passed(source, ["assert sum(1, 2) == 4"], entry_point="sum") == 1


def test_a_helper_that_asserts_inside_a_loop_is_one_test():
    check = "def check(candidate):\n    for x, y in [(1, 2), (2, 4)]:\n        assert candidate(x) == y\n"
    tested = asyncio.run(run_tests("def double(x): return 2 * x", [check], QUICK, entry_point="double"))
    assert (tested.total, tested.passed) == (1, 1)


def test_a_failed_preparation_fails_the_tests_after_it():
    tested = asyncio.run(run_tests("", ["assert 1 == 1\nx = add(1, 2)\nassert x == 3\nassert True"], QUICK))
    assert tested.results == [None, "NameError", "NameError"]


def test_a_host_that_cannot_start_the_sandbox_masks_the_sample(monkeypatch):
    broken = _sandbox_isolation.Isolation("bare", lambda command, paths: ["/nonexistent/python"])
    monkeypatch.setattr(_sandbox, "best", lambda: broken)
    got = score(CodeTests(), prompt="?", completion="def add(a, b): return a + b", reference=TESTS)
    assert (got.value, got.failure.kind) == (None, "sandbox")
    dies = _sandbox_isolation.Isolation(
        "bare", lambda command, paths: ["sh", "-c", "echo no room >&2; exit 3"]
    )
    monkeypatch.setattr(_sandbox, "best", lambda: dies)
    with pytest.raises(EvaluatorError, match="no room"):
        run("print(1)")


def test_tests_that_hang_by_themselves_are_not_the_models_fault():
    with pytest.raises(EvaluatorError, match="asked nothing"):
        asyncio.run(run_tests("def add(a, b): return 3", ["while True: pass"], Bounds(seconds=0.5)))


def test_strong_isolation_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(_sandbox, "best", lambda: WAYS[list(WAYS)[-1]])
    with pytest.raises(UserError, match="isolation is strong"):
        score(CodeTests(isolation="strong"), prompt="?", completion="x", reference=TESTS)


def test_an_interpreter_with_packages_sees_them_and_one_without_does_not(way):
    source = "import importlib.util\nprint(importlib.util.find_spec('numpy') is not None)"
    assert run(source).output == "False\n"
    done = asyncio.run(run_program(source, "", QUICK, packages=True))
    assert done.output == "True\n"


def test_plain_values_survive_the_way_to_the_program_and_back():
    from rft.evaluators._sandbox_inside import decode, encode

    value = {1: [True, None, 2.5, "é"], (1, 2): {frozenset({3}): b"\x00"}, "c": 1 + 2j, "inf": float("inf")}
    assert decode(encode(value)) == value
    assert list(decode(encode(iter([1, 2])))) == [1, 2]
    with pytest.raises(TypeError, match="not plain data"):
        encode(object())
