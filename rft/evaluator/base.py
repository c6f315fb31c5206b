"""What an evaluator is to the rest of rft: what it says about itself, and the calls it answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from rft.environment import NoConfig
from rft.evaluator.cases import Case, load_cases
from rft.evaluator.code import digest, source
from rft.evaluator.limits import Limits
from rft.types import Rollout, Score

Verdict = Score | float | int | bool | Mapping[str, float]
"""What `evaluate` may return. A mapping needs the key "score"; its other keys become metrics."""

Resolve = Callable[[str, Mapping[str, Any]], "Evaluator"]
"""From a name and its `with:` block, as a recipe has them, to an evaluator."""


class Evaluator:
    """Subclass it and define `evaluate`. See the module docstring for the rules of fault."""

    Config: ClassVar[type[BaseModel]] = NoConfig
    """The recipe's `with:` block, validated before a model loads."""

    name: str = ""
    """Shown in tables; the class's name when empty."""
    version: str = "0"
    range: tuple[float, float] = (0.0, 1.0)
    """A value outside is a failure of kind `bad_response`, never clipped."""
    requires: frozenset[str] = frozenset()
    """Task fields it reads; checked on the data before anything loads."""
    deterministic: bool = True
    """The same rollout always gets the same score."""
    execution: Literal["async", "thread", "process"] = "async"
    """`async`: an `async def evaluate` shares the event loop, a plain `def` gets a thread. `thread`: an
    `async def` gets a thread and a loop of its own too, for code that blocks now and then. `process`: worker
    processes, each with a copy of the evaluator, killed when a call outlasts its time limit: for code that
    may never come back. `setup` and `close` run in the workers."""
    origin: str | None = None
    """Whose service it uses, a host for example: evaluators of one origin share slots, pace and breaker."""
    limits: Limits = Limits()
    cases: Sequence[Case] | str = ()
    """Golden cases, or the name of a JSONL file beside the evaluator's source. Read by `golden`."""
    blind_to: frozenset[str] = frozenset()
    """Probes of `rft evaluator check` that it cannot see through by its nature, such as "negated"; "content"
    when it judges form alone. Another part of a composite has to make up for them."""

    entry: ClassVar[str] = "evaluate"
    """The method that the runner calls."""

    config: Any = None
    """The validated `Config`."""

    def __init__(self, **config: Any) -> None:
        """Validates `config` against the class's `Config`. Raises pydantic.ValidationError."""
        self.config = self.Config(**config)
        if not self.name:
            self.name = type(self).__name__

    @classmethod
    def from_recipe(cls, options: Mapping[str, Any], resolve: Resolve) -> Evaluator:
        """Makes one from a recipe's `with:` block. Composites resolve the evaluators named inside it."""
        return cls(**options)

    async def setup(self) -> None:
        """Called once before the first evaluation."""

    async def evaluate(self, rollout: Rollout) -> Verdict:
        """Scores one finished rollout. May be a plain `def`, which then runs in a thread."""
        raise NotImplementedError(f"{type(self).__name__} must define `evaluate(self, rollout)`")

    async def settle(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> Sequence[Score]:
        """Makes one prompt's scores comparable once all are in; same length and order.

        Only composites need it: a part that failed for one member must not count for the others.
        """
        return scores

    async def close(self) -> None:
        """Called once after the last evaluation."""

    @property
    def is_async(self) -> bool:
        """Whether its entry is a coroutine function, so that it can share the event loop."""
        return inspect.iscoroutinefunction(getattr(self, self.entry))

    def golden(self) -> list[Case]:
        """Its golden cases, read from their file if they are in one. Raises DataError."""
        return load_cases(self.cases_path()) if isinstance(self.cases, str) else list(self.cases)

    def cases_path(self) -> Path:
        """Where the file of its golden cases is. Raises TypeError or OSError if its code is in no file."""
        return Path(inspect.getfile(self._code())).parent / str(self.cases)

    def _code(self) -> Any:
        """The class or function that its author wrote."""
        return type(self)

    def fingerprint(self) -> str:
        """16 hex digits that change when the evaluator's code, version or configuration changes.

        The code is that of the class and of its bases; functions it calls elsewhere are not followed.
        """
        own = type(self).__mro__
        code = [source(base) for base in own[: own.index(Evaluator)]]
        config = self.config.model_dump(mode="json") if self.config is not None else None
        return digest(code, self.version, config)
