"""What a tracker is shown of a run besides its metrics: the recipe, and some rollouts of each step.

Both leave the machine, so neither carries a secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rft.recipe.schema import Recipe, Section
from rft.runs.files import to_json
from rft.runs.folder import RunFolder
from rft.secrets import Secret, hide, is_telling, redact

_LONGEST = 2000
"""Characters of a prompt, an answer or a reason."""


def configuration(recipe: Recipe) -> dict[str, str | int | float | bool]:
    """The resolved recipe with dotted keys, for trackers that know no nesting, and without secrets.

    A secret that is named (`env:NAME`) stays named. One that somebody wrote out among the arguments of a
    class of theirs, under a telling key, becomes stars.
    """
    return dict(_flat(recipe, ""))


def _flat(value: Any, key: str) -> Iterator[tuple[str, str | int | float | bool]]:
    inner: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    if isinstance(value, Section):
        fields = type(value).model_fields.items()
        inner = {field.alias or name: getattr(value, name) for name, field in fields}
    if inner:
        for name, one in inner.items():
            path = f"{key}.{name}" if key else name
            written_out = isinstance(one, str) and not Secret.is_written(one)
            if isinstance(value, Mapping) and is_telling(name) and written_out:
                yield path, "***"
            else:
                yield from _flat(one, path)
    elif isinstance(value, (bool, int, float)):
        yield key, value
    else:
        yield key, redact(value if isinstance(value, str) else to_json(value))


def rollout_table(run: RunFolder, step: int, rows: int) -> list[list[Any]]:
    """Some rollouts of a step, spread evenly over its groups, under `COLUMNS`; none where no file is."""
    path = next((one for one in run.rollout_files() if one.stem == f"step-{step:06d}"), None)
    if path is None or rows == 0:
        return []
    from rft.runs.rollouts import read_rollouts

    found = read_rollouts(path)
    spread = [found[n * len(found) // rows] for n in range(rows)] if len(found) > rows else found
    return [
        [
            _text(_asked(one["prompt"])),
            _text(one["text"]),
            one["reward"],
            _text(one["reason"] or one["status"]),
        ]
        for one in spread
    ]


def _asked(prompt: str) -> str:
    """A stored prompt, which is JSON for a chat and plain text otherwise, for people."""
    try:
        return "\n".join(f"{message['role']}: {message['content']}" for message in json.loads(prompt))
    except (ValueError, LookupError, TypeError):
        return prompt


def _text(text: str) -> str:
    text = hide(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
