"""Previews as HTML for notebooks: self-contained, for light and dark pages, every foreign text escaped.

Colour never carries the meaning alone: an arrow and a signed number stand beside each bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from rft.notebook.preview import Diff, Preview, Row
from rft.notebook.text import MOST_GROUPS, SIGNS, WORDS, advantage, counted, equal, number, summary, visible
from rft.types import Task

_LONG = 300
"""Characters of an answer from which on it is folded."""

_STYLE = """
<style>
.rft {font: 13px/1.45 system-ui, sans-serif; max-width: 72em; --up: #1a7f4b; --down: #c0392b; --line: #8884}
.rft .head {font-size: 14px; margin: .3em 0 .6em}
.rft .muted {opacity: .65}
.rft details.group {margin: 0 0 .8em; border: 1px solid var(--line); border-radius: 6px; overflow: hidden}
.rft .group > summary {padding: .45em .7em; background: #8881; cursor: pointer; white-space: pre-wrap}
.rft .tag {font-size: 11px; padding: 0 .5em; margin-left: .6em; border: 1px solid var(--line);
  border-radius: 1em}
.rft table {border-collapse: collapse; width: 100%; margin: 0; table-layout: fixed; font: inherit}
.rft tr, .rft td {background: none}
.rft td {padding: .4em .7em; text-align: left; vertical-align: top; border: 0;
  border-top: 1px solid var(--line)}
.rft td.adv {width: 9em; white-space: nowrap; font-variant-numeric: tabular-nums}
.rft td.score {width: 3.5em; font-variant-numeric: tabular-nums}
.rft td.why {width: 30%}
.rft .wide td.adv {width: 12em} .rft .wide td.score {width: 6.5em}
.rft .said {white-space: pre-wrap; overflow-wrap: anywhere; font: 12px/1.5 ui-monospace, monospace}
.rft .bar {display: block; height: 4px; width: 8em; margin-top: 3px; position: relative;
  background: #8882; border-radius: 2px}
.rft .bar i {position: absolute; top: 0; height: 4px; border-radius: 2px}
.rft .right {float: right; margin-left: 1em}
.rft .up {color: var(--up)} .rft .down {color: var(--down)}
.rft .up .bar i {background: var(--up); left: 50%} .rft .down .bar i {background: var(--down); right: 50%}
.rft .masked {opacity: .6}
.rft .part {display: inline-block; font-size: 11px; margin: .2em .3em 0 0; padding: 0 .45em;
  border: 1px solid var(--line); border-radius: 4px}
</style>
"""


def page(shown: Any) -> str:
    """The preview or diff as one HTML fragment."""
    body = _diff(shown) if isinstance(shown, Diff) else _preview(shown)
    return f'{_STYLE}<div class="rft">{body}</div>'


def _preview(shown: Preview) -> str:
    largest = max((abs(row.advantage) for row in shown.rows if row.advantage is not None), default=0.0)
    count = f"{_many(len(shown.groups), 'prompt')}, {_many(len(shown.rows), 'answer')}"
    head = f'<b>{_text(shown.evaluator)}</b> <span class="muted">{count}: {counted(shown.rows)}</span>'
    groups = "".join(_group(rows, largest) for rows in shown.groups[:MOST_GROUPS])
    more = len(shown.groups) - MOST_GROUPS
    below = [f"and {more} more prompts"] if more > 0 else []
    below += [shown.note] if shown.note else []
    return f'<div class="head">{head}</div>{groups}{_below(below)}'


def _group(rows: Sequence[Row], largest: float) -> str:
    tag = '<span class="tag">all scores equal: no gradient</span>' if equal(rows) else ""
    body = "".join(f"<tr>{_cells(row, largest)}</tr>" for row in rows)
    return _under_prompt(rows[0].rollout.task, f"<table>{body}</table>", tag)


def _under_prompt(task: Task, table: str, tag: str = "") -> str:
    right = "" if task.reference is None else f"reference: {task.reference}"
    asked = f'{_text(task.messages[-1].content)}{tag}<span class="muted right">{_text(right)}</span>'
    return f'<details class="group" open><summary>{asked}</summary>{table}</details>'


def _cells(row: Row, largest: float) -> str:
    masked = " masked" if row.push == "masked" else ""
    return (
        f'<td class="adv {row.push}" title="{WORDS[row.push]}">{_push(row)}{_bar(row, largest)}</td>'
        f'<td class="score{masked}">{number(row.score.value)}</td>'
        f'<td class="why{masked}">{_why(row)}</td>'
        f'<td class="said{masked}">{_said(row.rollout.text)}</td>'
    )


def _push(row: Row) -> str:
    return f"{SIGNS[row.push]} {advantage(row)}"


def _bar(row: Row, largest: float) -> str:
    if row.advantage is None or not largest:
        return ""
    return f'<span class="bar"><i style="width: {50 * abs(row.advantage) / largest:.0f}%"></i></span>'


def _why(row: Row) -> str:
    score = row.score
    parts = "".join(
        f'<span class="part" title="{_text(part.reason or "")}">{_text(name)} {number(part.value)}</span>'
        for name, part in score.parts.items()
    )
    reason = row.masked or score.reason or ""
    if parts and reason.startswith(tuple(score.parts)):  # a composite's reason lists its parts already
        reason = ""
    return f"{_text(reason)}{'<br>' if reason and parts else ''}{parts}"


def _said(text: str) -> str:
    if not text:
        return '<span class="muted">(nothing)</span>'
    if len(text) <= _LONG:
        return _text(text)
    return f"<details><summary>{_text(text[:_LONG])}…</summary>{_text(text[_LONG:])}</details>"


def _diff(shown: Diff) -> str:
    names = f"<b>{_text(shown.old.evaluator)}</b> → <b>{_text(shown.new.evaluator)}</b>"
    head = f'<div class="head">{names} <span class="muted">{_text(summary(shown))}</span></div>'
    changed: dict[str, list[tuple[Row, Row]]] = {}
    for before, after in shown.changed:
        changed.setdefault(before.rollout.group_id, []).append((before, after))
    groups = "".join(
        _under_prompt(
            pairs[0][0].rollout.task,
            f'<table class="wide">{"".join(f"<tr>{_change(*pair)}</tr>" for pair in pairs)}</table>',
        )
        for pairs in list(changed.values())[:MOST_GROUPS]
    )
    more = len(changed) - MOST_GROUPS
    below = [f"and answers to {more} more prompts"] if more > 0 else []
    below += [shown.new.note] if shown.new.note else []
    return head + groups + _below(below)


def _change(before: Row, after: Row) -> str:
    pushes = " → ".join(f'<span class="{row.push}">{_push(row)}</span>' for row in (before, after))
    reasons = [reason for reason in dict.fromkeys(map(_why, (before, after))) if reason]
    return (
        f'<td class="adv">{pushes}</td>'
        f'<td class="score">{number(before.score.value)} → {number(after.score.value)}</td>'
        f'<td class="why">{" → ".join(reasons)}</td><td class="said">{_said(before.rollout.text)}</td>'
    )


def _below(lines: Sequence[str]) -> str:
    return "".join(f'<div class="muted">{_text(line)}</div>' for line in lines)


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _text(text: str) -> str:
    return escape(visible(text))
