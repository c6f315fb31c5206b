"""The text of a translated module. Every value is written as a literal that reads back as itself."""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft.adapters._formula import Formula

_WIDTH = 100
_JUDGE = """# The judge: any OpenAI-compatible endpoint. `model` in the graders is a name there.
JUDGE = {"url": "https://api.openai.com/v1", "api_key": "env:OPENAI_API_KEY"}
"""


@dataclass(frozen=True)
class Code:
    """A call that makes an evaluator."""

    module: str
    name: str
    options: Mapping[str, Any]

    def text(self, indent: str, source: str | None) -> str:
        """The call, one argument a line; `source` is the constant that holds a python grader's text."""
        inner = indent + "    "
        lines = [
            f"{inner}{key}={source if key == 'source' else literal(value, inner)},"
            for key, value in self.options.items()
        ]
        if self.judged:
            lines.append(f"{inner}**JUDGE,")
        return "\n".join([f"{self.name}(", *lines, f"{indent})"])

    @property
    def judged(self) -> bool:
        """Whether a model is asked."""
        return "model" in self.options


def module(
    name: str,
    origin: str,
    parts: Mapping[str, Code],
    formula: Formula | None,
    *,
    requires: Sequence[str],
    notes: Sequence[str],
    judged: bool,
) -> str:
    """The whole module: one evaluator called `name`, of one part or of several under a formula."""
    sources = {key: f"{key.upper()}_SOURCE" for key, code in parts.items() if "source" in code.options}
    blocks = [_head(name, origin, requires, notes), _imports(parts, formula)]
    if judged:
        blocks.append(_JUDGE)
    for key, constant in sources.items():
        blocks.append(f"{constant} = {block(parts[key].options['source'])}\n")
    if formula is None:
        (key, code), *_ = parts.items()
        blocks.append(f"{name} = {code.text('', sources.get(key))}\n")
        return "\n".join(blocks)
    arguments = [f"    {key}={code.text('    ', sources.get(key))}," for key, code in parts.items()]
    blocks.append(f"\ndef calculate_output({', '.join(parts)}):\n    return {formula.source}\n\n")
    blocks.append("\n".join([f"{name} = Combined(", "    calculate_output,", *arguments, ")", ""]))
    return "\n".join(blocks)


def literal(value: Any, indent: str) -> str:
    """Python's text of JSON-like data; long text is cut at its line ends."""
    if isinstance(value, str):
        lines = value.splitlines(keepends=True)
        if len(value) <= _WIDTH - len(indent) or len(lines) < 2:
            return _quoted(value)
        inner = "\n".join(f"{indent}    {_quoted(line)}" for line in lines)
        return f"(\n{inner}\n{indent})"
    if isinstance(value, dict | list) and value:
        one_line = repr(value) if not _has_text(value) else None
        if one_line and len(one_line) + len(indent) <= _WIDTH:
            return one_line
        deeper = indent + "    "
        if isinstance(value, dict):
            inner = "\n".join(f"{deeper}{_quoted(k)}: {literal(v, deeper)}," for k, v in value.items())
            return f"{{\n{inner}\n{indent}}}"
        inner = "\n".join(f"{deeper}{literal(one, deeper)}," for one in value)
        return f"[\n{inner}\n{indent}]"
    return repr(value)


def block(text: str) -> str:
    """A text of several lines as it reads, between triple quotes."""
    quote = "'''" if '"""' in text else '"""'
    escaped = text.replace("\\", "\\\\").replace(quote, "\\" + "\\".join(quote))
    if escaped.endswith(quote[0]):
        escaped = escaped[:-1] + "\\" + quote[0]
    written = f"{quote}\\\n{escaped}{quote}"
    try:
        same = ast.literal_eval(written) == text and written.encode().decode() == written
    except (SyntaxError, ValueError):
        same = False
    return written if same else ascii(text)


def _head(name: str, origin: str, requires: Sequence[str], notes: Sequence[str]) -> str:
    shown = ascii(origin)[1:-1].replace('"', "'")
    lines = [
        f'"""{name}, translated from the OpenAI grader in {shown}. Yours to edit.',
        "",
        f'    evaluator: {{use: "./{name}.py:{name}"}}',
        "",
        f"Reads the columns: {', '.join(requires)}." if requires else "Reads no columns of the data.",
    ]
    if notes:
        lines += ["", "Not as at OpenAI:"]
        for note in notes:
            lines += textwrap.wrap(f"- {note}", _WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, '"""', ""])


def _imports(parts: Mapping[str, Code], formula: Formula | None) -> str:
    names: dict[str, set[str]] = {}
    for code in parts.values():
        names.setdefault(code.module, set()).add(code.name)
    if formula is not None:
        names.setdefault("rft.adapters.openai_graders", set()).add("Combined")
    lines = []
    if formula is not None and formula.functions:
        lines += [f"from math import {', '.join(sorted(formula.functions))}", ""]
    lines += [f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names)]
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair cannot stand in a file
        return ascii(text)
    return json.dumps(text, ensure_ascii=False)


def _has_text(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    return any(isinstance(one, str | dict | list) for one in inner)
