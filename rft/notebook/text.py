"""Previews as text, for terminals. Control characters in a model's answer are spelt out, not obeyed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rft.notebook.preview import Diff, Preview, Push, Row

MOST_GROUPS = 20
"""Prompts shown; a longer preview says how many it leaves out."""

SIGNS: dict[Push, str] = {"up": "▲", "down": "▼", "none": "·", "masked": "–", "unknown": " "}
WORDS: dict[Push, str] = {
    "up": "pushed up",
    "down": "pushed down",
    "none": "not moved",
    "masked": "masked",
    "unknown": "advantage unknown",
}
_STYLES: dict[Push, str] = {"up": "green", "down": "red", "none": "", "masked": "dim", "unknown": ""}
_WIDTH = 110
_LONGEST = 200


def as_text(shown: Any) -> str:
    """The preview or diff as plain text."""
    out = io.StringIO()
    Console(file=out, width=_WIDTH, color_system=None, force_jupyter=False).print(lines(shown))
    return out.getvalue().rstrip()


def lines(shown: Any) -> RenderableType:
    """What rich prints for a preview or a diff."""
    return _diff(shown) if isinstance(shown, Diff) else _preview(shown)


def visible(text: str) -> str:
    r"""The text with what a terminal or browser would obey instead of show spelt out.

    >>> visible("red \x1b[31m, line\nbreak, \u202e reversed")
    'red \\x1b[31m, line\nbreak, \\u202e reversed'
    """
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text)


def counted(rows: Iterable[Row]) -> str:
    """Like "3 pushed up, 4 pushed down, 1 masked"."""
    pushes = [row.push for row in rows]
    return ", ".join(f"{pushes.count(push)} {word}" for push, word in WORDS.items() if push in pushes)


def equal(rows: Iterable[Row]) -> bool:
    """Whether a group teaches nothing because all its scores are equal."""
    return all(row.push in ("none", "masked") for row in rows) and any(row.push == "none" for row in rows)


def summary(shown: Diff) -> str:
    """What a diff comes to, in one sentence."""
    total, changed = len(shown.new.rows), len(shown.changed)
    if not shown.rescored and not changed:
        return f"all {total} answers get the score they had"
    return f"{changed} of {total} answers are pushed another way; {shown.rescored} have another score"


def number(score: float | None) -> str:
    """A score as shown; "none" without one."""
    return "none" if score is None else f"{score:.3g}"


def _preview(shown: Preview) -> RenderableType:
    found: list[RenderableType] = [Text(f"{visible(shown.evaluator)}: {counted(shown.rows)}", style="bold")]
    for rows in shown.groups[:MOST_GROUPS]:
        told = "  (all scores equal: no gradient)" if equal(rows) else ""
        found += [Text(), Text(_short(_asked(rows[0])), style="dim").append(told), _table(rows)]
    found += [Text(line, style="dim") for line in _below(shown)]
    return Group(*found)


def _below(shown: Preview) -> Iterator[str]:
    if len(shown.groups) > MOST_GROUPS:
        yield f"and {len(shown.groups) - MOST_GROUPS} more prompts"
    if shown.note:
        yield shown.note


def _table(rows: Iterable[Row]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for justify in ("left", "right", "right", "left", "left"):
        table.add_column(justify=justify, overflow="fold")
    for row in rows:
        style = _STYLES[row.push]
        table.add_row(
            Text(SIGNS[row.push], style),
            Text(advantage(row), style),
            number(row.score.value),
            Text(why(row), "dim" if row.masked else ""),
            Text(_short(row.rollout.text)),
        )
    return table


def advantage(row: Row) -> str:
    """A row's advantage with its sign, or "masked"."""
    if row.push == "masked":
        return "masked"
    if row.advantage is None:
        return ""
    return f"{row.advantage:+.2f}" if row.advantage else "0.00"


def why(row: Row) -> str:
    """The reason of a score, with its parts."""
    parts = ", ".join(f"{name} {number(part.value)}" for name, part in row.score.parts.items())
    reason = row.masked or row.score.reason or ""
    if parts and reason.startswith(tuple(row.score.parts)):  # a composite's reason lists its parts already
        parts = ""
    return visible("; ".join(filter(None, (reason, parts))))


def _diff(shown: Diff) -> RenderableType:
    found: list[RenderableType] = [
        Text(f"{visible(f'{shown.old.evaluator} -> {shown.new.evaluator}')}: {summary(shown)}", style="bold")
    ]
    for before, after in shown.changed:
        change = f"{SIGNS[before.push]} {advantage(before)} -> {SIGNS[after.push]} {advantage(after)}"
        scores = f"score {number(before.score.value)} -> {number(after.score.value)}"
        found += [
            Text(),
            Text(f"{change}  {scores}  {why(after)}"),
            Text(f"  {_short(_asked(before))}", style="dim"),
            Text(f"  {_short(before.rollout.text)}"),
        ]
    found += [Text(shown.new.note, style="dim")] if shown.new.note else []
    return Group(*found)


def _asked(row: Row) -> str:
    return row.rollout.task.messages[-1].content


def _short(text: str) -> str:
    line = " ".join(visible(text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
