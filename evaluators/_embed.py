"""Where embeddings come from: an OpenAI-compatible API, or a model in a folder."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from rft.errors import EvaluatorError, UserError
from rft.http.client import Client, read_json
from rft.http.faults import excerpt
from rft.secrets import Secret


class EndpointEmbedder:
    """Asks `POST {url}/embeddings`. Belongs to one event loop. Raises UserError for a missing key."""

    def __init__(self, url: str, model: str, api_key: Secret | None, timeout_s: float) -> None:
        self._model = model
        self._address = url.rstrip("/") + "/embeddings"
        headers = {} if api_key is None else {"Authorization": Secret(f"Bearer {api_key}")}
        self._client = Client(
            self._address, headers=headers, timeout_s=timeout_s, max_response_bytes=64 << 20
        )

    async def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """One row for each text, and the tokens billed. Raises EvaluatorError."""
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        response = await self._client.send(httpx.Request("POST", self._address, json=body))
        answer = read_json(response)
        try:
            found = {int(one["index"]): one["embedding"] for one in answer["data"]}
            vectors = np.array([found[index] for index in range(len(texts))], dtype=np.float64)
            tokens = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _no_embeddings(response) from error
        if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
            raise _no_embeddings(response)
        return vectors, tokens

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


class FolderEmbedder:
    """A transformers encoder: the mean of its last layer over a text's tokens.

    Raises UserError when the folder holds no such model.
    """

    def __init__(self, folder: str) -> None:
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError:
            raise UserError(
                "embeddings from a folder need transformers: pip install 'rft-loop[cpu]'"
            ) from None
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
            self._model = AutoModel.from_pretrained(folder).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no model to embed with: {error}") from error
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        known = int(getattr(self._model.config, "max_position_embeddings", 512))
        self._longest = min(int(self._tokenizer.model_max_length), known)

    async def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """One row for each text; nothing is billed."""
        return await asyncio.to_thread(self._embed, list(texts)), 0

    async def close(self) -> None:
        """Nothing to give back."""

    def _embed(self, texts: list[str]) -> np.ndarray:
        inputs: Any = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        )
        states_BTD = self._model(**inputs).last_hidden_state
        here_BT1 = inputs["attention_mask"].unsqueeze(-1).to(states_BTD.dtype)
        means_BD = (states_BTD * here_BT1).sum(1) / here_BT1.sum(1).clamp(min=1)
        vectors: np.ndarray = means_BD.double().numpy()
        return vectors


def _no_embeddings(response: httpx.Response) -> EvaluatorError:
    told = f"the answer from {response.url.host} is no list of embeddings: {excerpt(response)}"
    return EvaluatorError("bad_response", told, retryable=True)
