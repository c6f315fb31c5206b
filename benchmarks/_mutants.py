"""The small faults that `mutation.py` puts into a file, one at a time, and how.

    <  <=  ==  is  in      the boundary moved, the comparison turned round
    +  *  &  and           the other operator; one side dropped
    not x, -x, if x        x; if not x
    1, 1e-8, True          2, 1e-8 doubled, False
    min, clamp(min=), sum  max, clamp(max=), mean; and back
    x.detach(), x.exp()    x
    x = f(x), x += y,      left out
    x.y = z, f(x), raise

Left alone: strings, annotations, decorators, imports, what a `raise` says, casts. A statement that gives
a name its first value is not left out: that a name is missing any test would notice.
"""

from __future__ import annotations

import ast
import copy
import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_PAIRS = (
    ("min", "max"),
    ("minimum", "maximum"),
    ("amin", "amax"),
    ("sum", "mean"),
    ("any", "all"),
    ("zeros", "ones"),
)
_SWAPS = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
_DROPPED = {"detach", "exp", "log", "square", "sqrt", "rsqrt", "abs", "neg", "cumsum", "flip", "roll"}


@dataclass(frozen=True)
class Mutant:
    """A file with one change, and the lines of which a test must reach one to notice it."""

    file: str
    line: int
    column: int
    what: str
    source: str
    lines: range
    on_import: bool  # outside every function: it acts when the file is imported


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a file, in its order, no two alike."""
    tree = ast.parse(source)
    found = {}
    for statement, on_import in _statements(tree.body, True):
        header = [child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt)]
        ends = [
            node.end_lineno or 0
            for child in header
            for node in ast.walk(child)
            if hasattr(node, "end_lineno")
        ]
        lines = range(statement.lineno, max([statement.lineno, *ends]) + 1)
        for node, changed in _changes(statement):
            rows = "\n" * (node.end_lineno - node.lineno)  # what follows stays in its line
            text = ast.unparse(changed)
            text = f"({text}{rows})" if isinstance(node, ast.expr) else text + rows
            mutated = _replaced(source, node, text)
            what = " ".join(f"{ast.unparse(node)} -> {ast.unparse(changed)}".split())
            try:
                compile(mutated, file, "exec")
            except SyntaxError:  # inside an f-string, whose parts have no places of their own
                continue
            found.setdefault(
                mutated, Mutant(file, node.lineno, node.col_offset, what, mutated, lines, on_import)
            )
    return list(found.values())


def functions(folder: Path) -> dict[str, list[FunctionType]]:
    """The functions of this process by the file under `folder` that they were written in."""
    found: dict[str, list[FunctionType]] = {}
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename.startswith(str(folder)):
            found.setdefault(one.__code__.co_filename, []).append(one)
    return found


def plant(mutant: Mutant, root: Path, found: dict[str, list[FunctionType]]) -> None:
    """Makes this process, which has imported the file under `root`, behave as if it had imported the mutant.

    Functions get the mutant's code, whoever holds them. What acts on import takes a longer way: see below.
    """
    path = str(root / mutant.file)
    code = compile(mutant.source, path, "exec")
    if mutant.on_import:
        _plant_values(mutant.file.removesuffix(".py").replace("/", "."), code)
        return
    codes = {(one.co_qualname, one.co_firstlineno): one for one in _inner(code)}
    for function in found[path]:
        function.__code__ = codes[function.__code__.co_qualname, function.__code__.co_firstlineno]


def _inner(code: CodeType) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from _inner(one)


def _plant_values(name: str, code: CodeType) -> None:
    """Imports the mutant too, and puts its constants and default values where those of the file are."""
    module, twin = sys.modules[name], ModuleType(name)
    exec(code, twin.__dict__)
    for key, value in vars(twin).items():
        old = vars(module)[key]
        if isinstance(value, FunctionType | type):
            _plant_defaults(old, value)
        elif not key.startswith("__") and not isinstance(value, ModuleType):
            for one, other in list(sys.modules.items()):
                if one.startswith(("rft.", "tests.")) and vars(other).get(key) is old:
                    setattr(other, key, value)


def _plant_defaults(old: Any, new: Any) -> None:
    if isinstance(new, FunctionType) and new.__code__.co_filename == old.__code__.co_filename:
        old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__
    elif isinstance(new, type) and new.__module__ == old.__module__ and old is not new:
        for key, value in list(vars(new).items()):
            was = getattr(vars(old).get(key), "__func__", vars(old).get(key))
            value = getattr(value, "__func__", value)
            if isinstance(value, FunctionType):
                was.__defaults__, was.__kwdefaults__ = value.__defaults__, value.__kwdefaults__
            elif isinstance(value, int | float):
                setattr(old, key, value)


def _statements(body: list[ast.stmt], on_import: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement, and whether it runs on import."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom) or _is_docstring(statement):
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        yield statement, on_import
        inner = on_import and not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, name, []), inner)
        for handler in getattr(statement, "handlers", []):
            yield from _statements(handler.body, inner)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _changes(statement: ast.stmt) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Pairs of a node of this statement, its blocks not looked into, and what takes its place."""
    yield from _without(statement)
    if isinstance(statement, ast.Raise):
        return
    for node in _expressions(statement):
        for changed in _instead(node):
            yield node, changed
    if isinstance(statement, ast.If | ast.While) and not isinstance(
        statement.test, ast.Compare | ast.UnaryOp
    ):
        yield statement.test, ast.UnaryOp(ast.Not(), statement.test)


def _without(statement: ast.stmt) -> Iterator[tuple[ast.AST, ast.AST]]:
    """The statement left out, where that is no missing name."""
    match statement:
        case ast.Raise() | ast.AugAssign() | ast.Expr(value=ast.Call()) | ast.Continue() | ast.Break():
            yield statement, ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield statement, ast.Pass()
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if any(
            isinstance(node, ast.Name) and node.id == name for node in ast.walk(value)
        ):
            yield statement, ast.Pass()


def _expressions(statement: ast.AST) -> Iterator[ast.expr]:
    """The expressions of a statement, its blocks, annotations and formatted strings apart."""
    for field, value in ast.iter_fields(statement):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.JoinedStr) or not isinstance(
                child, ast.AST
            ):
                continue
            if isinstance(child, ast.expr) and not (
                isinstance(statement, ast.Subscript)
                and ast.unparse(statement.value) in ("Callable", "Literal")
            ):
                yield child
            yield from _expressions(child)


def _instead(node: ast.expr) -> Iterator[ast.expr]:
    """What may take an expression's place."""
    match node:
        case ast.Compare(ops=[op]):
            for other in _COMPARISONS[type(op)]:
                yield _with(node, ops=[other()])
        case ast.BinOp(left=left, op=op, right=right):
            if other := _ARITHMETIC.get(type(op)):
                yield _with(node, op=other())
                yield left
                if isinstance(op, ast.Mult | ast.Add):
                    yield right
        case ast.BoolOp(op=op, values=values):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for number in range(len(values)):
                rest = values[:number] + values[number + 1 :]
                yield rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield operand
        case ast.IfExp(test=test) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value if value else 1.0)
        case ast.Call(func=function, keywords=keywords):
            name = getattr(function, "attr", getattr(function, "id", ""))
            if name in _SWAPS and isinstance(function, ast.Attribute):
                yield _with(node, func=_with(function, attr=_SWAPS[name]))
            elif name in ("min", "max"):
                yield _with(node, func=ast.Name(_SWAPS[name]))
            if name in ("clamp", "clamp_") and len(keywords) == 1:
                keyword = ast.keyword("max" if keywords[0].arg == "min" else "min", keywords[0].value)
                yield _with(node, keywords=[keyword])
            if (
                name in _DROPPED
                and isinstance(function, ast.Attribute)
                and ast.unparse(function.value) != "torch"
            ):
                yield function.value


def _with(node: ast.expr, **changes: object) -> ast.expr:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _replaced(source: str, node: ast.AST, text: str) -> str:
    """The source with a node's text replaced, its lines kept in place; columns of `ast` count bytes."""
    lines = source.encode().splitlines(keepends=True)
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    return (before + text.encode() + after).decode()
