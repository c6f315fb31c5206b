"""OpenAI's model graders as judges over any OpenAI-compatible endpoint.

The messages are the grader's own, filled in. What the policy wrote stands where the template puts it, without
the marked lines between which `judge` keeps it: whoever can choose should turn such a grader into a `judge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rft.adapters.openai_graders import TemplateText, _Filled
from rft.evaluator import Limits
from rft.evaluators._judge import UnreadableVerdict, read_verdict
from rft.evaluators._judge_client import EndpointChat
from rft.secrets import Secret
from rft.types import Cost, Message, Rollout, Score

_STEP = {"description": {"type": "string"}, "conclusion": {"type": "string"}}


class Asked(BaseModel):
    """One message to the judge."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: TemplateText


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    input: list[Asked] = Field(min_length=1)
    model: str
    url: str = "https://api.openai.com/v1"
    """An OpenAI-compatible API, up to and with `/v1`."""
    api_key: Secret | None = None
    temperature: float | None = Field(None, ge=0)
    max_tokens: int = Field(4096, gt=0)
    body: dict[str, Any] = {}
    """Further keys of the request (`seed`, `top_p`, `reasoning_effort`); null leaves one out."""
    usd_per_million_in: float = Field(0.0, ge=0)
    usd_per_million_out: float = Field(0.0, ge=0)


class _ModelGrader(_Filled):
    """Asks a model the filled messages and holds its answer to a schema."""

    Config = _Config
    schema: Mapping[str, Any]
    form: str
    """The answer's form in words, for servers that do not hold it to the schema."""
    limits = Limits(concurrency=16, timeout_s=120.0, deadline_s=600.0)

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.deterministic = self.config.temperature == 0
        self._chat: EndpointChat | None = None

    def texts(self) -> Iterable[str]:
        """The messages' contents."""
        return [asked.content for asked in self.config.input]

    async def setup(self) -> None:
        """Connects. Raises UserError for a key that is named and not there."""
        config = self.config
        self._chat = EndpointChat(
            config.url,
            config.model,
            api_key=config.api_key,
            body=config.body,
            timeout_s=self.limits.timeout_s,
        )

    async def close(self) -> None:
        """Closes the connections."""
        if self._chat is not None:
            await self._chat.close()

    async def evaluate(self, rollout: Rollout) -> Score:
        assert self._chat is not None, "setup() comes first"
        filled = self.fill(rollout)
        if isinstance(filled, Score):
            return filled
        filled[-1] += f"\n\nReply with one JSON object and nothing else: {self.form}"
        config = self.config
        reply = await self._chat.chat(
            [Message(asked.role, text) for asked, text in zip(config.input, filled, strict=True)],
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            schema=self.schema,
        )
        usd = reply.tokens_in * config.usd_per_million_in + reply.tokens_out * config.usd_per_million_out
        cost = Cost(usd=usd / 1e6, calls=1, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out)
        try:
            return self.read(read_verdict(reply, self.schema, cost, config.max_tokens)).stamped(cost=cost)
        except UnreadableVerdict as error:
            return error.score()

    def read(self, verdict: Mapping[str, Any]) -> Score:
        """The score in a verdict that fits the schema."""
        raise NotImplementedError


class ScoreModel(_ModelGrader):
    """`score_model`: the judge gives a number within `range`, after reasoning in steps.

    A number outside the range and an unreadable answer have no score, where OpenAI cuts the one to the range
    and grades the other 0. Cannot see: what the judging model does not know; flattery (see the module).
    """

    class Config(_Config):
        range: tuple[float, float] = (0.0, 1.0)

        @model_validator(mode="after")
        def _range_rises(self) -> Self:
            if not self.range[0] < self.range[1]:
                raise ValueError(f"range must rise: [lowest, highest], got {list(self.range)}")
            return self

    name = "score_model"
    form = '{"steps": [{"description": "...", "conclusion": "..."}], "result": number}'
    schema = {
        "type": "object",
        "properties": {
            "steps": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": _STEP,
                    "required": list(_STEP),
                    "additionalProperties": False,
                },
            },
            "result": {"type": "number"},
        },
        "required": ["steps", "result"],
        "additionalProperties": False,
    }

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.range = self.config.range

    def read(self, verdict: Mapping[str, Any]) -> Score:
        """`result`, with the last step's conclusion as the reason."""
        steps = verdict["steps"]
        return Score(float(verdict["result"]), reason=steps[-1]["conclusion"] if steps else None)


class LabelModel(_ModelGrader):
    """`label_model`: the judge picks one of `labels`; 1 for one of `passing`, else 0.

    Cannot see: what the judging model does not know; flattery (see the module).
    """

    class Config(_Config):
        labels: list[str] = Field(min_length=2)
        passing: list[str] = Field(min_length=1)

        @model_validator(mode="after")
        def _passing_are_labels(self) -> Self:
            if unknown := sorted(set(self.passing) - set(self.labels)):
                raise ValueError(f"{unknown} are not among the labels {self.labels}")
            return self

    name = "label_model"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.form = '{"label": one of ' + ", ".join(map(repr, self.config.labels)) + "}"
        self.schema = {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": self.config.labels}},
            "required": ["label"],
            "additionalProperties": False,
        }

    def read(self, verdict: Mapping[str, Any]) -> Score:
        """Whether the label is one that passes."""
        return Score(float(verdict["label"] in self.config.passing), reason=f"labelled {verdict['label']}")
