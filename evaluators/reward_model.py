"""A reward model: a sequence classifier that learned what people prefer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rft.errors import UserError
from rft.evaluator import BatchEvaluator, Limits
from rft.types import Rollout, Score


class RewardModel(BatchEvaluator):
    """One number of a Hugging Face sequence classifier for the whole conversation.

    `model` is a folder or a hub id. It reads the conversation through its own chat template where it has one,
    else prompt and answer with a line break between. A classifier with one output is a reward model; with
    several, name the one that counts by `label`. `squash: true` maps the number to (0, 1) by the logistic
    function, which suits a weighted sum; as it stands it has no bounds.

    It runs in batches, in a thread, on the CPU unless `device` says otherwise, beside all else there.
    Cannot see: more than `max_tokens` of a conversation (the end is cut off); anything that its training data
    did not teach, and a policy under training looks for exactly that. Weigh it beside a rule, keep a second
    judge out of training, and check it with adversarial cases.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid", protected_namespaces=())
        model: str = Field(min_length=1)
        revision: str | None = None
        label: int | None = Field(None, ge=0)
        squash: bool = False
        max_tokens: int = Field(2048, ge=1)
        device: str = "cpu"
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    name = "reward_model"
    execution = "thread"
    limits = Limits(concurrency=1, timeout_s=600.0, deadline_s=1200.0)

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.range = (0.0, 1.0) if self.config.squash else (-float("inf"), float("inf"))

    async def setup(self) -> None:
        """Loads the model. Raises UserError when that fails, or when it is not clear which output counts."""
        await asyncio.to_thread(self._load)

    def evaluate_batch(self, rollouts: Sequence[Rollout]) -> list[Score]:  # type: ignore[override]  # in a thread
        inputs = self._tokenizer(
            [self._text(rollout) for rollout in rollouts],
            add_special_tokens=self._tokenizer.chat_template is None,
            truncation=True,
            max_length=self.config.max_tokens,
            padding=True,
            return_tensors="pt",
        ).to(self.config.device)
        logits_B = self._model(**inputs).logits[:, self.config.label or 0].float()
        values = (logits_B.sigmoid() if self.config.squash else logits_B).tolist()
        return [Score(value) if value == value else _broken(value) for value in values]

    def _load(self) -> None:
        try:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
        except ImportError:
            raise UserError(
                "the evaluator reward_model needs transformers: pip install 'rft-loop[cpu]'"
            ) from None
        source, revision = self.config.model, self.config.revision
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
            model = AutoModelForSequenceClassification.from_pretrained(
                source, revision=revision, dtype=self.config.dtype
            )
        except (OSError, ValueError) as error:
            raise UserError(f"reward_model: {source} cannot be loaded: {error}") from error
        outputs = model.config.num_labels
        if (outputs > 1 and self.config.label is None) or (self.config.label or 0) >= outputs:
            raise UserError(
                f"reward_model: {source} has {outputs} outputs {model.config.id2label}; "
                f"name the one that counts by `label` (got {self.config.label})"
            )
        if self._tokenizer.pad_token_id is None:  # a batch needs one, and attention never sees it
            self._tokenizer.pad_token = self._tokenizer.eos_token
        model.config.pad_token_id = self._tokenizer.pad_token_id
        self._tokenizer.padding_side = self._tokenizer.truncation_side = "right"
        self._model = model.to(self.config.device).eval().requires_grad_(False)

    def _text(self, rollout: Rollout) -> str:
        if self._tokenizer.chat_template is not None:
            messages = [message.to_dict() for message in rollout.messages]
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False))
        return "\n".join(message.content for message in rollout.messages)


def _broken(value: float) -> Score:
    return Score.failed("bad_response", f"the reward model answered {value}")
