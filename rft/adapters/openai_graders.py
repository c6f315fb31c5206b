"""OpenAI's graders as evaluators, for modules that `rft evaluator import` writes, and for writing by hand.

    contact = Combined(
        lambda name, email: (name + email) / 2,
        name=TextSimilarity(input="{{sample.output_json.name}}", reference="{{item.name}}", metric="bleu"),
        email=StringCheck(input="{{sample.output_json.email}}", reference="{{item.email}}", operation="eq"),
    )

Meanings are those of OpenAI's guide (developers.openai.com/api/docs/guides/graders). They part from it where
it makes a failure a grade: what OpenAI grades 0 because a judge's answer is unreadable or a grader raised has
no number here. An answer that lacks what a grader reads (`output_json` of what is no JSON) gets the lowest
score.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from rft.adapters._openai import BrokenRow, Template, Unanswered, item, sample
from rft.adapters._similarity import MEASURES
from rft.errors import EvaluatorError
from rft.evaluator import Evaluator, FunctionEvaluator, Limits
from rft.evaluators._sandbox import Bounds, run_program
from rft.scoring.composite import Composite, Parts
from rft.types import Rollout, Score


def _template(text: str) -> str:
    Template(text)
    return text


TemplateText = Annotated[str, AfterValidator(_template)]
"""A text with `{{ item.x }}` and `{{ sample.output_text }}` in it."""


class _Filled(Evaluator):
    """A grader over templates: fills them, then `grade`s."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.templates = [Template(text) for text in self.texts()]
        self.requires = frozenset().union(*(template.fields for template in self.templates))

    def texts(self) -> Iterable[str]:
        """The templates, in the order in which `grade` takes them filled."""
        return [self.config.input, self.config.reference]

    def fill(self, rollout: Rollout) -> list[str] | Score:
        """The templates filled, or the verdict where they cannot be."""
        try:
            return [template.fill(rollout) for template in self.templates]
        except Unanswered as error:
            return Score(self.range[0], reason=str(error))
        except BrokenRow as error:
            return Score.skip(str(error))


class StringCheck(_Filled):
    """1 when the input equals the reference (`eq`), differs (`ne`), or contains it (`like`, `ilike`), else 0.

    Cannot see: anything but those letters. `ne` and `like` are passed by answers that have nothing to do with
    the question; an answer that lists every candidate contains the right one.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        input: TemplateText
        reference: TemplateText
        operation: Literal["eq", "ne", "like", "ilike"]

    name = "string_check"

    async def evaluate(self, rollout: Rollout) -> Score:
        filled = self.fill(rollout)
        if isinstance(filled, Score):
            return filled
        text, reference = filled
        holds = {
            "eq": text == reference,
            "ne": text != reference,
            "like": reference in text,
            "ilike": reference.casefold() in text.casefold(),
        }[self.config.operation]
        return Score(float(holds), reason=f"{text[:80]!r} {self.config.operation} {reference[:80]!r}")


class TextSimilarity(_Filled):
    """How alike input and reference are, by one of the measures of `rft.adapters._similarity`.

    Cannot see: meaning; "is" and "is not" are nearly the same text.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        input: TemplateText
        reference: TemplateText
        metric: Literal[
            "fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
        ]

    name = "text_similarity"

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        filled = self.fill(rollout)
        if isinstance(filled, Score):
            return filled
        value = MEASURES[self.config.metric](*filled)
        return Score(value, reason=f"{self.config.metric} {value:.3f}")


_CALL = """

if __name__ == "__main__":
    import json as _json, sys as _sys
    _given, _out = _json.load(_sys.stdin), _sys.stdout
    _sys.stdout = _sys.stderr
    try:
        _told = {"grade": float(grade(_given["sample"], _given["item"]))}
    except Exception as _error:
        _told = {"raised": f"{type(_error).__name__}: {_error}"[:300]}
    _out.write(_json.dumps(_told))
"""


class PythonGrader(Evaluator):
    """A grader's own source with `grade(sample, item)`, run for each answer in a process with limits.

    The process has no network and sees no files but Python's where the kernel allows that (see
    `rft.evaluators._sandbox`); the packages installed here can be imported, which need not be OpenAI's
    versions, or all of them. What `grade` raises is its author's bug, where OpenAI grades 0; taking longer
    than `seconds` is the instrument's failure.

    Cannot see: `sample["output_audio"]`. `sample["output_json"]` is None when the answer is not JSON.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        source: str
        seconds: float = 30.0
        memory_mb: int = 2048

    name = "python_grader"
    limits = Limits(concurrency=4, timeout_s=120.0)

    async def evaluate(self, rollout: Rollout) -> Score:
        shown = {"sample": sample(rollout), "item": item(rollout)}
        bounds = Bounds(seconds=self.config.seconds, memory_mb=self.config.memory_mb)
        done = await run_program(
            self.config.source + _CALL, json.dumps(shown, default=str), bounds, packages=True
        )
        if done.why is not None:
            raise EvaluatorError("sandbox", f"the grader {done.why}")
        told = json.loads(done.output)
        if "raised" in told:
            raise RuntimeError(f"grade raised {told['raised']}")
        if not math.isfinite(told["grade"]):
            return Score.failed("bad_response", f"grade returned {told['grade']}")
        return Score(told["grade"])


class Combined(Composite):
    """A function of several graders' scores, each given by its name; all of them must have a number.

    Made from a `multi` grader's `calculate_output`. Its result may be any finite number.
    """

    name = "multi"
    range = (-math.inf, math.inf)

    def __init__(self, function: Callable[..., float], /, **graders: Evaluator) -> None:
        super().__init__(graders)
        self.function = function

    def combine(self, parts_G: Sequence[Parts]) -> list[Score]:
        """The function's results."""
        return [self._computed({name: float(score) for name, score in parts.items()}) for parts in parts_G]

    def _computed(self, values: Mapping[str, float]) -> Score:
        result = self.function(**values)
        if not (isinstance(result, int | float) and math.isfinite(result)):
            return Score.failed("bad_response", f"the formula gives {result!r}")
        return Score(float(result), reason=", ".join(f"{name} {value:.3g}" for name, value in values.items()))

    def fingerprint(self) -> str:
        """Changes with any grader and with the function."""
        told = (super().fingerprint(), FunctionEvaluator(self.function).fingerprint())
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
