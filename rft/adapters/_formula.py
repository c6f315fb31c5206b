"""`calculate_output` of OpenAI's multi graders as Python, checked before anything is written.

Its language is arithmetic (developers.openai.com/api/docs/guides/graders, "Combined graders"): the graders'
names, numbers, + - * / ^, parentheses, and min, max, abs, floor, ceil, exp, sqrt, log. It is parsed with
`ast`, every node is compared with that list, and what comes out is source for a module that its owner reads.
It is never evaluated here.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass

BUILT_IN = ("min", "max", "abs")
FROM_MATH = ("floor", "ceil", "exp", "sqrt", "log")
FUNCTIONS = (*BUILT_IN, *FROM_MATH)
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub)
_LONGEST = 2000


@dataclass(frozen=True)
class Formula:
    """A checked formula: Python's source of it, and the functions of `math` that it calls.

    >>> to_python("0.5 * a ^ 2 + sqrt(b)", ["a", "b"])
    Formula(source='0.5 * a ** 2 + sqrt(b)', functions=('sqrt',), names=('a', 'b'))
    """

    source: str
    functions: tuple[str, ...]
    names: tuple[str, ...]


def to_python(text: str, graders: Collection[str]) -> Formula:
    """The formula with `^` as Python's power. Raises ValueError saying what in it is not arithmetic."""
    if len(text) > _LONGEST:
        raise ValueError(f"a formula of {len(text)} characters; at most {_LONGEST} are read")
    # Before parsing: Python's own ^ binds weaker than +, so the tree would be another formula.
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is not arithmetic: {error}") from None
    called: set[ast.AST] = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree.body):
        if node not in called and (wrong := _refused(node, graders)):
            raise ValueError(f"{text!r}: {wrong}")
    functions = {node.id for node in called if isinstance(node, ast.Name)}
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n not in called}
    return Formula(
        _source(tree),
        tuple(name for name in FROM_MATH if name in functions),
        tuple(name for name in graders if name in names),
    )


def _source(node: ast.AST) -> str:
    try:
        return ast.unparse(node)
    except RecursionError:
        raise ValueError("nested too deeply: not arithmetic that anyone wrote") from None


def _refused(node: ast.AST, graders: Collection[str]) -> str | None:
    """What is wrong with one node, or None."""
    if isinstance(node, ast.Constant):
        return None if type(node.value) in (int, float) else f"{node.value!r} is no number"
    if isinstance(node, ast.Name):
        return None if node.id in graders else f"{node.id} is no grader; there are {', '.join(graders)}"
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        plain = not node.keywords and not any(isinstance(a, ast.Starred) for a in node.args)
        return None if known and plain else f"{_source(node)}: functions are {', '.join(FUNCTIONS)}"
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        allowed = isinstance(node.op, _OPERATORS)
        return None if allowed else f"{_source(node)}: operators are + - * / ^"
    if isinstance(node, ast.expr_context | ast.operator | ast.unaryop):
        return None  # seen with their expression
    return f"{_source(node)} is not arithmetic"
