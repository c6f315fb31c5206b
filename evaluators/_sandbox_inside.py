"""What runs inside the sandbox: never imported by rft, started as a script of its own.

It reads one frame (a job) from standard input, gives up what the limits take away, writes `READY`, and only
then touches code that somebody else wrote. So whatever ends a process before `READY` is the host's fault, and
whatever ends it later is the program's.

Three jobs. `program` runs a source as `__main__`, with its own input and output. `serve` loads a source and
calls its functions when asked; `tests` runs a test file whose names stand for those functions. The last two
are always two processes: the expected results live in one, the model's code in the other, and between them go
plain values as JSON. So a program can answer calls, and nothing else: it cannot read what a test expects,
skip a test by leaving early, report a result, or return an object whose `==` says yes.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import glob
import itertools
import json
import os
import resource
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

READY = b"ready\n"
MAX_LINE = 4 << 20
"""Characters of one message between tests and program."""


_CALLABLE = ["callable"]


class SolutionError(Exception):
    """The program raised something that is no built-in exception, or gave no plain value."""


# Plain values as JSON. What JSON lacks is a list whose first item names its kind; lists themselves too.


def encode(value: Any, keep: Callable[[Any], int] | None = None) -> Any:
    """A value as JSON data, subclasses as what they derive from; with `keep`, any other object as a number.

    Raises TypeError for a value that is not plain.
    """
    if value is None or isinstance(value, bool):
        return value
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    for many in (list, tuple, set, frozenset):
        if isinstance(value, many):
            return [many.__name__, *(encode(one, keep) for one in value)]
    if isinstance(value, dict):
        return ["dict", *([encode(k, keep), encode(v, keep)] for k, v in value.items())]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, Iterator):
        return ["iter", *(encode(one, keep) for one in itertools.islice(value, MAX_LINE))]
    if keep is not None:
        return ["object", keep(value)]
    raise TypeError(f"a {type(value).__name__} is not plain data")


def decode(data: Any, thing: Callable[[int], Any] | None = None) -> Any:
    """The reverse. Raises ValueError, TypeError or KeyError for what `encode` did not make."""
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    kind, *rest = data
    if kind in ("list", "tuple", "set", "frozenset", "iter"):
        make: Callable[[list[Any]], Any] = getattr(builtins, kind)
        return make([decode(one, thing) for one in rest])
    if kind == "dict":
        return {decode(k, thing): decode(v, thing) for k, v in rest}
    if kind == "bytes":
        return bytes.fromhex(rest[0])
    if kind == "complex":
        return complex(*rest)
    if kind == "object" and thing is not None:
        return thing(int(rest[0]))
    raise ValueError(f"unknown kind {kind!r}")


# The job `serve`: the model's code, in a process that knows no test.


class Server:
    """Answers one request a line: a name, an attribute or a call; the answer is a value or an exception."""

    def __init__(self, source: str) -> None:
        self.names: dict[str, Any] = {"__name__": "solution", "__builtins__": builtins}
        self.kept: list[Any] = []
        self.broken: str | None = None
        try:
            exec(compile(source, "solution.py", "exec"), self.names)
        except BaseException as error:  # sys.exit too: what is defined by then is there to be called
            self.broken = type(error).__name__

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Never raises: what the program raises is part of the answer."""
        try:
            return {"value": self._result(request)}
        except BaseException as error:
            return {"raised": type(error).__name__}

    def _result(self, request: dict[str, Any]) -> Any:
        if "name" in request:
            if request["name"] not in self.names:
                raise NameError(request["name"])
            thing = self.names[request["name"]]
        else:
            thing = self.kept[request["object"]]
        for attribute in request["path"]:
            thing = getattr(thing, attribute)
        if "args" not in request:
            return _CALLABLE if callable(thing) else encode(thing)
        args = [decode(one, self.kept.__getitem__) for one in request["args"]]
        kwargs = {name: decode(one, self.kept.__getitem__) for name, one in request["kwargs"].items()}
        # Only what a class makes is kept: any method of an object that a function made up could say yes.
        return encode(thing(*args, **kwargs), self._keep if isinstance(thing, type) else None)

    def _keep(self, thing: Any) -> int:
        self.kept.append(thing)
        return len(self.kept) - 1


def serve(source: str, limits: dict[str, int]) -> None:
    """Moves the channel away from where prints go, then answers until the input ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    limit(limits)
    answers.write(READY)
    answers.flush()
    server = Server(source)
    answers.write(json.dumps({"broken": server.broken}).encode() + b"\n")
    answers.flush()
    for line in requests:
        try:
            answer = json.dumps(server.answer(json.loads(line)))
        except (ValueError, RecursionError, MemoryError) as error:
            answer = json.dumps({"raised": type(error).__name__})
        answers.write(answer.encode() + b"\n")
        answers.flush()


# The job `tests`: a test file, in a process that never loads the model's code.


class Remote:
    """A function, class or object of the program, by name or number."""

    def __init__(self, where: dict[str, Any], path: tuple[str, ...] = ()) -> None:
        self._where, self._path = where, path

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return ask({**self._where, "path": (*self._path, attribute)})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ask(
            {
                **self._where,
                "path": self._path,
                "args": [encode(one, number_of) for one in args],
                "kwargs": {name: encode(one, number_of) for name, one in kwargs.items()},
            }
        )


def number_of(thing: Any) -> int:
    """The number of an object of the program, as an argument. Raises TypeError for anything else."""
    if isinstance(thing, Remote) and "object" in thing._where and not thing._path:
        return int(thing._where["object"])
    raise TypeError(f"the test passes a {type(thing).__name__} to the program; only plain data can be passed")


def ask(request: dict[str, Any]) -> Any:
    """One question to the program. Raises what it raised, or SolutionError."""
    tell({"ask": request})
    try:
        answer = json.loads(sys.stdin.buffer.readline())
        if "value" in answer:
            if answer["value"] == _CALLABLE and "args" not in request:
                return Remote({key: request[key] for key in request if key != "path"}, request["path"])
            return decode(answer["value"], lambda number: Remote({"object": number}))
        raised = str(answer["raised"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raised = "an unreadable answer"
    kind = getattr(builtins, raised, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        raise kind("raised by the program")
    raise SolutionError(raised)


class Solution(types.ModuleType):
    """Stands for the program where a test file says `import solution`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return ask({"name": name, "path": ()})


class Names(dict[str, Any]):
    """The test file's names; one that neither it nor Python defines is the program's."""

    def __missing__(self, name: str) -> Any:
        # A built-in stays one: a program must not get to say what `abs` or `all` is.
        if hasattr(builtins, name):
            raise KeyError(name)
        return ask({"name": name, "path": ()})


def units(tree: ast.Module, entry_point: str | None) -> Iterator[tuple[bool, list[ast.stmt]]]:
    """(whether it is a test, statements), in order.

    A test is an `assert`, a function `test_...`, or `check(candidate)` as HumanEval has it: its asserts, or
    where they hide in loops, the call. Anything else prepares the tests after it.
    """
    for statement in tree.body:
        name = statement.name if isinstance(statement, ast.FunctionDef) else ""
        if isinstance(statement, ast.FunctionDef) and name == "check" and entry_point is not None:
            body = statement.body
            if any(isinstance(inner, ast.Assert) for inner in body):
                named = statement.args.args[0].arg if statement.args.args else "candidate"
                yield False, ast.parse(f"{named} = {entry_point}").body
                yield from ((isinstance(inner, ast.Assert), [inner]) for inner in body)
            else:
                yield True, [statement, *ast.parse(f"check({entry_point})").body]
        elif name.startswith("test"):
            yield True, [statement, *ast.parse(f"{name}()").body]
        else:
            yield isinstance(statement, ast.Assert), [statement]


def run_tests(sources: list[str], entry_point: str | None, limits: dict[str, int]) -> None:
    """Tells the number of tests, then one line per test; an unreadable test file tells `broken` and ends."""
    limit(limits)
    sys.stdout.buffer.write(READY)
    try:
        found = [unit for source in sources for unit in units(ast.parse(source), entry_point)]
        code = [
            (is_test, compile(ast.Module(body, []), "tests.py", "exec", dont_inherit=True))
            for is_test, body in found
        ]
    except (SyntaxError, ValueError, RecursionError) as error:
        tell({"broken": f"{type(error).__name__}: {error}"})
        return
    tell({"tests": sum(is_test for is_test, _ in code)})
    names = Names({"__name__": "tests", "__builtins__": builtins})
    sys.modules["solution"] = Solution("solution")
    if entry_point is not None:
        names[entry_point] = Remote({"name": entry_point})
    why = None
    for is_test, body in code:
        said = why
        try:
            if why is None:
                exec(body, names)
        except AssertionError:
            said = "a wrong result"
        except Exception as error:
            said = type(error).__name__ + (f": {error}" if isinstance(error, SolutionError) else "")
            why = why if is_test else said
        if is_test:
            tell({"passed": said is None, "why": said})
    tell({"done": True})


def tell(message: dict[str, Any]) -> None:
    """One line to whoever started this process."""
    line = json.dumps(message).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise SolutionError("more data than can be passed")
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


# The job `program`, and what all three share.


def program(source: str, limits: dict[str, int]) -> None:
    """Runs a source as a script; its standard input is what follows the job."""
    limit(limits)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    sys.argv = ["solution.py"]
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    exec(compile(source, "solution.py", "exec", dont_inherit=True), vars(main_module))


def limit(limits: dict[str, int]) -> None:
    """Takes away what the limits name, for good: a hard limit cannot be raised again without privilege.

    And whatever is said on standard error from here on is the program's, and nobody listens.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        if name == "NPROC":
            most += _running()
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _running() -> int:
    """Threads of this user that can be seen from here; the kernel counts them against the limit too."""
    count = 0
    for task in glob.iglob("/proc/[0-9]*/task"):
        with contextlib.suppress(OSError):
            count += len(os.listdir(task)) if os.stat(task).st_uid == os.getuid() else 0
    return count


def read_job() -> dict[str, Any]:
    """The first frame of standard input: 8 hex digits, then that many bytes of JSON. Reads no byte more."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = os.read(0, count - len(data))
            if not piece:
                raise EOFError("no job")
            data += piece
        return data

    job: dict[str, Any] = json.loads(exactly(int(exactly(8), 16)))
    return job


def main() -> None:
    """Does the one job on standard input."""
    os.chdir(os.environ["HOME"])
    job = read_job()
    jobs: dict[str, Callable[..., None]] = {"program": program, "serve": serve, "tests": run_tests}
    jobs[job.pop("job")](**job)


if __name__ == "__main__":
    main()
