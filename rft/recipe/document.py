"""YAML text -> plain values, remembering the line of every key.

PyYAML reads YAML 1.1, in which `off` is false, `1:30` is 90, `2024-01-01` is a date and `1e-6` is text.
None of that is what the author of a recipe means, so scalars are read as YAML 1.2 does: only `true` and
`false` are switches, and `1e-6` is a number. A key given twice is a mistake, not a silent overwrite.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

_SCALARS: tuple[tuple[str, str, str], ...] = (  # tag, pattern, possible first characters
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
)

_PLAIN_TAGS = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the text that `_Loader` would take for something else."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Unicode line breaks survive only as escapes, which only double quotes have.
        style = '"' if any(char in data for char in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)

for _tag, _pattern, _first in _SCALARS:
    for _kind in (_Loader, _Dumper):
        # PyYAML files the pattern for the empty scalar under "".
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}",
            re.compile(f"^(?:{_pattern})$"),
            ["" if first == "\0" else first for first in _first],
        )


@dataclass
class Document:
    """Values and where they stand. `mistakes` holds (line, message) of what YAML itself got wrong."""

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """1-based line of each key and list item."""
    mistakes: list[tuple[int | None, str]] = field(default_factory=list)


def read_yaml(text: str) -> Document:
    """Parses one YAML document. Never raises for bad YAML: see `Document.mistakes`."""
    document = Document()
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            document.data = _value(root, (), loader, document, frozenset())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        document.mistakes.append((mark.line + 1 if mark else None, f"not valid YAML: {said}"))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.mistakes.append((line, f"not valid YAML: {chr(error.character)!r} may not occur"))
    return document


def write_yaml(data: Any) -> str:
    """The text that `read_yaml` reads back as the same values. Keys keep their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _value(node: yaml.Node, path: KeyPath, loader: _Loader, document: Document, above: frozenset[int]) -> Any:
    if id(node) in above:
        raise yaml.composer.ComposerError(None, None, "an alias contains itself", node.start_mark)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        told = f"the tag {node.tag} has no meaning here"
        raise yaml.composer.ComposerError(None, None, told, node.start_mark)
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*path, index)] = item.start_mark.line + 1
        return [
            _value(item, (*path, index), loader, document, above) for index, item in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, loader, document, above)
    return loader.construct_object(node)


def _mapping(
    node: yaml.MappingNode, path: KeyPath, loader: _Loader, document: Document, above: frozenset[int]
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.mistakes.append((line, "a key must be plain text"))
            continue
        key = key_node.value
        here = (*path, key)
        if key in out:
            dotted = ".".join(map(str, here))
            document.mistakes.append((line, f"{dotted} is given twice; first on line {document.lines[here]}"))
            continue
        document.lines[here] = line
        out[key] = _value(value_node, here, loader, document, above)
    return out
