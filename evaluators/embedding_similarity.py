"""Close in meaning to the reference, as an embedding model sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rft.evaluator import BatchEvaluator, Limits
from rft.evaluators._answers import accepted
from rft.evaluators._embed import EndpointEmbedder, FolderEmbedder
from rft.secrets import Secret
from rft.types import Cost, Rollout, Score


class Embedder(Protocol):
    """Makes vectors of texts."""

    async def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """One row for each text, and the tokens that were billed. Raises EvaluatorError."""
        ...

    async def close(self) -> None:
        """Gives back what it holds."""
        ...


class EmbeddingSimilarity(BatchEvaluator):
    """The cosine of the answer's and the reference's embeddings (the best of a list), 0 from `floor` down.

    Value: max(0, (cosine - floor) / (1 - floor)). Unrelated texts have a cosine of 0.1 with one model and 0.7
    with another: measure it on answers to other prompts, and set `floor` there. Embeddings come from an
    OpenAI-compatible API (`url`, `model`, `api_key`) or from a model folder on this machine (`folder`: the
    mean of the last layer, as sentence-transformers models are made for).

    Cannot see: negation, numbers and names, which hardly move an embedding; length; truth. Copying the prompt
    is often close to the reference too.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid", protected_namespaces=())
        url: str | None = None
        """An OpenAI-compatible API, up to and with `/v1`."""
        model: str | None = None
        api_key: Secret | None = None
        folder: str | None = None
        floor: float = Field(0.0, ge=-1, lt=1)
        usd_per_million_tokens: float = Field(0.0, ge=0, allow_inf_nan=False, exclude=True)

        @model_validator(mode="after")
        def _one_source(self) -> Self:
            if (self.folder is None) == (self.url is None):
                raise ValueError("name where embeddings come from: url and model of an API, or a folder")
            if self.url is not None and not self.model:
                raise ValueError("url needs model, the name of an embedding model there")
            if self.folder is not None and (self.model or self.api_key):
                raise ValueError("folder is the model; leave out model and api_key")
            return self

    name = "embedding_similarity"
    requires = frozenset({"reference"})
    blind_to = frozenset({"negated", "contradiction", "prompt_echo"})
    batch_size = 32
    limits = Limits(concurrency=4, timeout_s=60.0, deadline_s=300.0)

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.origin = urlsplit(self.config.url).netloc if self.config.url else None
        self._embedder: Embedder | None = None

    async def setup(self) -> None:
        """Connects, or loads the folder. Raises UserError for a missing key or an unreadable folder."""
        if self.config.folder is not None:
            self._embedder = await asyncio.to_thread(FolderEmbedder, self.config.folder)
        else:
            self._embedder = EndpointEmbedder(
                self.config.url, self.config.model, self.config.api_key, self.limits.timeout_s
            )

    async def close(self) -> None:
        """Closes the connections."""
        if self._embedder is not None:
            await self._embedder.close()

    async def evaluate_batch(self, rollouts: Sequence[Rollout]) -> list[Score]:
        assert self._embedder is not None, "setup() comes first"
        said = [rollout.text.strip() for rollout in rollouts]
        wanted = [accepted(rollout.task.reference) for rollout in rollouts]
        texts = sorted(
            {text for text in said if text} | {one for many in wanted for one in many if one.strip()}
        )
        if not texts:
            return [self._verdict(*pair, {}) for pair in zip(said, wanted, strict=True)]
        vectors, tokens = await self._embedder.embed(texts)
        rows = dict(zip(texts, _directions(vectors), strict=True))
        scores = [self._verdict(*pair, rows) for pair in zip(said, wanted, strict=True)]
        usd = tokens * self.config.usd_per_million_tokens / 1e6
        return [scores[0].stamped(cost=Cost(usd=usd, calls=1, tokens_in=tokens)), *scores[1:]]

    def _verdict(self, said: str, wanted: Sequence[str], rows: dict[str, np.ndarray]) -> Score:
        if not wanted or not all(one.strip() for one in wanted):
            return Score.skip("the reference is empty")
        if not said:
            return Score(0.0, reason="empty")
        cosine = max(float(rows[said] @ rows[one]) for one in wanted)
        value = (cosine - self.config.floor) / (1 - self.config.floor)
        return Score(min(max(value, 0.0), 1.0), reason=f"cosine {cosine:.3f}")


def _directions(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
