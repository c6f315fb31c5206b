"""A surprise becomes a golden case: one line in the JSONL file that the evaluator names as its `cases`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft.errors import DataError, UserError
from rft.evaluator import Case, Evaluator, FunctionEvaluator, load_cases
from rft.types import Rollout


def add_case(
    rollout: Rollout,
    *,
    expect: float | Sequence[float] | str,
    evaluator: Evaluator,
    path: str | Path | None = None,
) -> Case:
    """Adds a rollout to the evaluator's golden cases and returns the case.

    Args:
        expect: what its score should be: a number, `(low, high)`, or "unscored".
        evaluator: whose case it is, with the options it has now.
        path: the file to append to; when left out, the one that the evaluator's `cases` names, beside its
            source. Made when it does not exist.

    Raises UserError when the evaluator names no file, the case is there already, or `expect` is not one.
    """
    file = Path(path) if path is not None else _file(evaluator)
    case = _case(rollout, expect, evaluator)
    known = load_cases(file) if file.exists() else []
    for number, other in enumerate(known, start=1):
        if _question(other) == _question(case):
            raise UserError(
                f"{file.name} has this answer as case {number} already, expecting {other.expect}; "
                "change it there if that is wrong"
            )
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        with file.open("a", encoding="utf-8") as out:
            out.write("\n" if before and not before.endswith("\n") else "")
            out.write(json.dumps(case.to_dict(), ensure_ascii=False) + "\n")
    except OSError as error:
        raise DataError(f"the case could not be written to {file}: {error.strerror}") from error
    return case


def _file(evaluator: Evaluator) -> Path:
    if not isinstance(evaluator.cases, str):
        has = f"keeps its {len(evaluator.cases)} cases in code" if evaluator.cases else "has no cases yet"
        raise UserError(
            f'{evaluator.name} {has}; to add some from here, set cases="{evaluator.name}.jsonl" on it '
            "(a file beside its source), or say path=..."
        )
    try:
        return evaluator.cases_path()
    except (OSError, TypeError) as error:  # defined in the notebook itself
        raise UserError(
            f"{evaluator.name} is in no file, so {evaluator.cases!r} lies beside nothing; say path=..."
        ) from error


def _case(rollout: Rollout, expect: float | Sequence[float] | str, evaluator: Evaluator) -> Case:
    asked = [message.to_dict() for message in _asked(rollout)]
    plain = len(asked) == 1 and asked[0]["role"] == "user"
    raw = {
        "prompt": asked[0]["content"] if plain else asked,
        "completion": rollout.text,
        "expect": list(expect) if isinstance(expect, tuple) else expect,
        "reference": rollout.task.reference,
        "fields": dict(rollout.task.metadata) or None,
        "config": _options(evaluator) or None,
    }
    if expect == "ranked":
        raise UserError("a ranking needs several answers; write that case into the file by hand")
    try:
        return Case.from_dict(json.loads(json.dumps(raw)))
    except (TypeError, ValueError) as error:
        raise UserError(f"this cannot become a golden case: {error}") from error


def _asked(rollout: Rollout) -> Sequence[Any]:
    """All that was said before the last answer."""
    answers = [number for number, message in enumerate(rollout.messages) if message.role == "assistant"]
    return rollout.messages[: answers[-1]] if answers else rollout.messages


def _options(evaluator: Evaluator) -> dict[str, Any]:
    """What is set on it and differs from the defaults."""
    if isinstance(evaluator, FunctionEvaluator):
        return dict(evaluator.bound)
    config = evaluator.config
    return {} if config is None else config.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _question(case: Case) -> str:
    """The case without what is expected."""
    return json.dumps({**case.to_dict(), "expect": None}, sort_keys=True)
