"""Between our words and vLLM's: a request's sampling on the way in, its tokens on the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.exceptions import VLLMClientError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from rft.engine.base import Completion, Sampling


def vllm_params(sampling: Sampling) -> SamplingParams:
    """Our sampling in vLLM's words: one log-probability for each sampled token, one output at the end.

    Raises ValueError for a parameter in `sampling.extra` that vLLM does not know or that is set here.
    """
    ours: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "structured_outputs": _held_to(sampling.json_schema),
        "n": 1,
        "logprobs": 0,
        "flat_logprobs": True,
        "detokenize": bool(sampling.stop),
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    taken = sorted(ours.keys() & sampling.extra.keys())
    if taken:
        raise ValueError(f"sampling parameter {', '.join(taken)} is set by the rollout itself; leave it out")
    try:
        return SamplingParams(**ours, **sampling.extra)
    except TypeError as error:
        raise ValueError(f"vLLM does not know a sampling parameter: {error}") from error
    except VLLMClientError as error:
        raise ValueError(str(error)) from error


def completion_of(output: RequestOutput) -> Completion:
    """The sampled tokens of a finished request made with `vllm_params`."""
    sample = output.outputs[0]
    logprobs: Any = sample.logprobs
    starts: Mapping[int, int] | Sequence[int] = logprobs.start_indices
    return Completion(
        token_ids=tuple(sample.token_ids),
        # With logprobs=0 each position holds the sampled token alone, so its entry starts the position.
        logprobs=tuple(logprobs.logprobs[start] for start in starts),
        finish_reason="length" if sample.finish_reason == "length" else "stop",
        weight_versions=tuple(
            (int(span.version), span.start, span.end) for span in sample.weight_versions or ()
        ),
    )


def _held_to(schema: Mapping[str, Any] | None) -> StructuredOutputsParams | None:
    return None if schema is None else StructuredOutputsParams(json=dict(schema))
