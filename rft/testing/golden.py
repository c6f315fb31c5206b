"""An evaluator's golden cases as test items, and where a test says which evaluator it is about.

    pytestmark = pytest.mark.rft_evaluator("./evaluator.py:brief_and_right")

on a module or a class collects one item for each case that the evaluator carries, in Python or in its JSONL
file: the same cases that `rft evaluator check` reads. One evaluator is set up once for all of its cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rft.errors import UserError
from rft.evaluator import Case, Evaluator, with_options
from rft.scoring.runner import ScoringRunner

MARK = "rft_evaluator"

Named = str | Mapping[str, Any]


class GoldenFailure(Exception):
    """A golden case that does not hold. Its text is the whole report."""


class GoldenCase(pytest.Item):
    """One golden case."""

    def __init__(self, *, case: Case, evaluator: Evaluator, runners: Runners, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self.evaluator = evaluator
        self._runners = runners

    def runtest(self) -> None:
        """Scores the case's answers as training would and compares."""
        from rft.check.answers import completions, rollout, task_of

        try:
            variant = with_options(self.evaluator, self.case.config or {})
        except (ValueError, TypeError) as error:
            raise GoldenFailure(f"the case's config does not fit the evaluator: {error}") from error
        task = task_of(self.case)
        rollouts = [rollout(task, text, index) for index, text in enumerate(completions(self.case))]
        (group,) = self._runners.score(variant, rollouts)
        if not self.case.holds(*group.scores):
            raise GoldenFailure(self._report(group.scores))

    def _report(self, scores: Iterable[Any]) -> str:
        from rft.check.answers import completions
        from rft.testing.assertions import told

        case = self.case
        about = {"reference": case.reference, "fields": case.fields, "config": case.config}
        lines = [
            f"{self.evaluator.name}: expected {_expected(case)}, got",
            *(f"  {told(text, score)}" for text, score in zip(completions(case), scores, strict=True)),
            f"prompt: {case.prompt!r}",
            *(f"{name}: {value!r}" for name, value in about.items() if value is not None),
        ]
        return "\n".join(lines)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """The comparison alone; a traceback only for what nobody expected."""
        if isinstance(excinfo.value, GoldenFailure | UserError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """File and name, for the report's header."""
        return self.path, None, self.name


class Runners:
    """One open runner for each configuration of an evaluator, until `close`."""

    def __init__(self) -> None:
        self._open: dict[str, ScoringRunner] = {}

    def score(self, evaluator: Evaluator, rollouts: Any) -> Any:
        """The rollouts' groups, scored. Raises UserError when the evaluator cannot be set up."""
        from rft import background
        from rft.scoring.groups import score_each

        key = evaluator.fingerprint()
        if key not in self._open:
            runner = ScoringRunner(evaluator)
            background.run(runner.setup())
            self._open[key] = runner
        return background.run(score_each(self._open[key], rollouts))

    def close(self) -> None:
        """Closes all of them."""
        from rft import background

        while self._open:
            background.run(self._open.popitem()[1].close())


def golden_items(parent: pytest.Collector, named: Iterable[Named]) -> Iterator[GoldenCase]:
    """An item for every golden case of the evaluators. Raises CollectError for what cannot be read."""
    for one in named:
        try:
            evaluator = find(one, parent.path.parent)
            cases = evaluator.golden()
        except UserError as error:
            raise pytest.Collector.CollectError(str(error)) from error
        runners = Runners()
        parent.config.add_cleanup(runners.close)
        for number, case in enumerate(cases):
            yield GoldenCase.from_parent(
                parent,
                name=f"golden[{evaluator.name}-{number}-{_slug(case)}]",
                case=case,
                evaluator=evaluator,
                runners=runners,
            )


def named_by(marks: Iterable[Any]) -> list[Named]:
    """The evaluators that `rft_evaluator` marks among `marks` name."""
    bare = [getattr(mark, "mark", mark) for mark in marks]
    return [one for mark in bare if getattr(mark, "name", None) == MARK for one in mark.args]


def find(named: Named, folder: Path) -> Evaluator:
    """The evaluator that a mark, an option or the configuration names.

    By name and not as an object: pytest takes a mark with a function or class for its only argument as a
    decoration of that function or class.

    Args:
        named: as a recipe writes it: `./evaluator.py:near`, or `{"use": ..., "with": ...}`.
        folder: where relative files start.

    Raises UserError when it leads nowhere.
    """
    from rft.recipe.resolve import resolve_evaluator
    from rft.recipe.schema import Use

    try:
        use = Use.model_validate(named)
    except ValueError as error:  # pydantic's
        raise UserError(
            f"{MARK} takes names as a recipe does, './file.py:Name' or {{'use': ..., 'with': ...}}, "
            f"got {named!r}"
        ) from error
    return resolve_evaluator(use, folder)


def _expected(case: Case) -> str:
    if isinstance(case.expect, tuple):
        return f"{case.expect[0]:g} to {case.expect[1]:g}"
    if isinstance(case.expect, str):
        return "the answers in this order, best first" if case.expect == "ranked" else "no number"
    return f"{case.expect:g}"


def _slug(case: Case) -> str:
    """Enough of the answer to tell cases apart, in letters that a shell and a node id bear."""
    text = case.completion if isinstance(case.completion, str) else " ".join(case.completion)
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")[:24] or "blank"
