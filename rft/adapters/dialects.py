"""Reward services built for other people's trainers, asked in the language that each of them already speaks.

    evaluator:
      use: openai_endpoint        # or google_reward, bedrock_lambda
      with:
        url: https://grader.example/api/grader
        headers: {Authorization: "Bearer env:GRADER_KEY"}

All three are `HTTPEvaluator`: limits, retries, secrets and the meaning of a status are its. An answer that is
not of the documented form has no number.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from pydantic_core import to_jsonable_python

from rft.adapters._openai import item, sample
from rft.errors import EvaluatorError
from rft.http.client import read_json
from rft.http.evaluator import HTTPEvaluator
from rft.types import Message, Rollout, Score

_OURS = uuid.UUID("5c6d3a3e-7f0b-4c7e-9a59-2d1c5a3f8e10")  # so that a rollout's trace_id is always the same


class OpenAIEndpoint(HTTPEvaluator):
    """The `endpoint` grader of Azure's reinforcement fine-tuning: {sample, item, trace_id} -> {score}.

    Form as in microsoft-foundry/fine-tuning, Demos/Agentic_RFT_PrivatePreview/README.md, "Endpoint format and
    arguments". Unless `range` says otherwise a score is from 0 to 1.

    Cannot carry over: `pass_threshold`; `rate_limit` (use `limits: {rpm: ...}`); a `trace_id` shared with
    tool calls, as each rollout gets one of its own; `sample.output_audio`.
    """

    name = "openai_endpoint"

    def build_request(self, rollout: Rollout) -> Mapping[str, Any]:
        """See the class."""
        trace = f"trace_{uuid.uuid5(_OURS, rollout.id).hex}"
        return _plain({"sample": sample(rollout), "item": item(rollout), "trace_id": trace})

    def parse_response(self, response: httpx.Response, rollout: Rollout) -> Score:
        """See the class."""
        return Score(_number(read_json(response), "score"))


class GoogleReward(HTTPEvaluator):
    """The Cloud Run reward of Gemini's reinforcement tuning: {example, response, metadata} -> {reward}.

    Form as in docs.cloud.google.com/gemini-enterprise-agent-platform/reference/rest/v1beta1/
    projects.locations.tuningJobs, "ReinforcementTuningCloudRunRewardScorer". The reference and the row's
    columns are the example's `references`; `user_requested_aux_info` is the reason.

    Cannot carry over: cutting to [-1, 1], which is the range here: a reward outside it is a failure;
    `parseResponseConfig`; the service agent's identity token (put one in `headers`); the step, in whose place
    stands the version of the weights. Tool calls are `functionCall` parts by name and arguments.
    """

    name = "google_reward"
    range = (-1.0, 1.0)

    def build_request(self, rollout: Rollout) -> Mapping[str, Any]:
        """See the class."""
        asked = rollout.task.messages
        system = [message for message in asked if message.role == "system"]
        row = item(rollout)
        del row["messages"]
        example: dict[str, Any] = {"contents": [_content(m) for m in asked if m.role != "system"]}
        if system:
            example["systemInstruction"] = {"parts": [{"text": message.content} for message in system]}
        if row:
            example["references"] = row
        said = [m for m in rollout.messages[len(asked) :] if m.role == "assistant"]
        response = _content(said[-1]) if said else {"role": "model", "parts": [{"text": ""}]}
        step = {"step": rollout.weight_version, "tuning_job_id": 0}
        return _plain({"example": example, "response": response, "metadata": step})

    def parse_response(self, response: httpx.Response, rollout: Rollout) -> Score:
        """See the class."""
        answer = read_json(response)
        reason = answer.get("user_requested_aux_info") if isinstance(answer, Mapping) else None
        return Score(_number(answer, "reward"), reason=None if reason is None else str(reason))


class BedrockLambda(HTTPEvaluator):
    """The reward Lambda of Amazon Bedrock: [{id, messages, ...}] -> [{id, aggregate_reward_score, ...}].

    Form as in the Bedrock user guide, "Setting up reward functions" (row in `metadata`), and SageMaker's
    "Implementing reward functions" (row beside `messages`); both are sent, the task's reference as
    `reference_answer`. `metrics_list` becomes metrics. Lists hold one sample each.

    Cannot carry over: AWS request signing. `url` is what takes the event as its body without it: the Lambda
    runtime interface emulator (`/2015-03-31/functions/function/invocations`), or a gateway of yours. The
    Lambda's own net: one that answers an error of its own with 0.0 has said 0.0.
    """

    name = "bedrock_lambda"

    def build_request(self, rollout: Rollout) -> httpx.Request:
        """See the class."""
        row = item(rollout)
        del row["messages"]
        row = {"reference_answer" if name == "reference" else name: value for name, value in row.items()}
        messages = [message.to_dict() for message in rollout.messages]
        event = {**row, "id": rollout.id, "messages": messages, "metadata": row}
        return httpx.Request("POST", self.config.url, json=[_plain(event)])

    def parse_response(self, response: httpx.Response, rollout: Rollout) -> Score:
        """See the class. A Lambda that raised answers 200 with the header `X-Amz-Function-Error`."""
        answer = read_json(response)
        if "x-amz-function-error" in response.headers or _is_error(answer):
            told = answer.get("errorMessage") if isinstance(answer, Mapping) else answer
            raise EvaluatorError("server", f"the Lambda raised: {told}", retryable=True)
        if not (isinstance(answer, Sequence) and len(answer) == 1 and isinstance(answer[0], Mapping)):
            raise TypeError("a list with one result is expected")
        (result,) = answer
        if result.get("id", rollout.id) != rollout.id:
            raise ValueError(f"the result is for {result['id']!r}, not for {rollout.id!r}")
        metrics = {str(one["name"]): _number(one, "value") for one in result.get("metrics_list") or ()}
        return Score(_number(result, "aggregate_reward_score"), metrics=metrics)


def _number(answer: Any, key: str) -> float:
    """Raises TypeError or KeyError, which the caller reports as an answer not as promised."""
    if not isinstance(answer, Mapping):
        raise TypeError(f"an object with {key!r} is expected")
    if isinstance(answer[key], bool) or not isinstance(answer[key], int | float):
        raise TypeError(f"{key} is {answer[key]!r}, not a number")
    return float(answer[key])


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as JSON holds it: what it cannot hold goes as text, NaN as null."""
    made: dict[str, Any] = to_jsonable_python(body, inf_nan_mode="null", bytes_mode="base64", fallback=str)
    return made


def _is_error(answer: Any) -> bool:
    return isinstance(answer, Mapping) and "errorMessage" in answer


def _content(message: Message) -> dict[str, Any]:
    """A message as a Gemini `Content`."""
    parts: list[dict[str, Any]] = []
    if message.content or not message.tool_calls:
        parts.append({"text": message.content})
    for call in message.tool_calls:
        function = call.get("function", {})
        parts.append({"functionCall": {"name": function.get("name"), "args": function.get("arguments")}})
    return {"role": "model" if message.role == "assistant" else "user", "parts": parts}
