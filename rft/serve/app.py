"""vLLM's own OpenAI app on the embedded engine: the routes are vLLM's, the engine is the trainer's.

Chat, completions, responses, streaming, log-probabilities, JSON schemas, tool calls, tokenize, `/v1/models`,
`/metrics` and `/health` come with the app. Added here: the weight version on every answer, one API key, and
model names that outlive weight updates.

    <model_name>    the policy as it is now, adapter included; also when a request names no model
    base            the weights without the adapter, when the policy has one

Two things differ from a stand-alone vLLM server, because clients and trainer share one engine:
log-probabilities are those of the distribution that was sampled from, after temperature
(`processed_logprobs`), and the model's generation_config is ignored, so that an unset temperature is 1.
"""

from __future__ import annotations

import difflib
from argparse import Namespace
from pathlib import Path

from starlette.types import ASGIApp
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.lora.request import LoRARequest
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

from rft.engine.client import BASE, InProcessClient
from rft.engine.vllm import VLLMEngine
from rft.errors import ServeError
from rft.recipe.schema import ServeSpec
from rft.serve.access import RequireKey, read_key
from rft.serve.versions import WeightVersions, watch


async def build(
    engine: VLLMEngine, spec: ServeSpec, model_name: str, *, chat_template: Path | None = None
) -> ASGIApp:
    """The app, ready to be served from the running event loop.

    Args:
        engine: answers; it may train and roll out at the same time.
        spec: the recipe's `serve:` section.
        model_name: what clients call the policy; `spec.model_name` wins.
        chat_template: a Jinja file that replaces the tokenizer's.

    Raises:
        ServeError: an unknown parser, one that needs tokens this model lacks, or a key variable not set.
    """
    check(spec)
    key = read_key(spec.api_key_env)
    client = InProcessClient(engine, watch=watch)
    args = _arguments(spec, spec.model_name or model_name, client.model_config.model, chat_template)
    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    try:
        await init_app_state(client, app.state, args, tasks)
    except TypeError as error:
        if "parser" not in str(error):
            raise
        raise ServeError(f"serve: {error}; take the parser that the model's page names") from error
    if engine.policy_adapter is not None:
        app.state.openai_serving_models.lora_requests[BASE] = LoRARequest(
            BASE, 1, client.model_config.model, base_model_name=BASE
        )
    return WeightVersions(app if key is None else RequireKey(app, key), engine)


def check(spec: ServeSpec) -> None:
    """What can be known to be wrong before a model is loaded. Raises ServeError."""
    read_key(spec.api_key_env)
    for field, name, known in (
        ("tool_call_parser", spec.tool_call_parser, ToolParserManager.list_registered()),
        ("reasoning_parser", spec.reasoning_parser, ReasoningParserManager.list_registered()),
    ):
        if name is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"vLLM has {', '.join(sorted(known))}"
            raise ServeError(f"serve.{field}: vLLM has no parser {name!r}; {hint}")


def _arguments(spec: ServeSpec, model_name: str, model: str, chat_template: Path | None) -> Namespace:
    """vLLM's server arguments: its own defaults, and what the recipe says."""
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", model])
    args.served_model_name = [model_name]
    args.chat_template = str(chat_template) if chat_template is not None else None
    args.disable_log_stats = True  # the engine logs its own; this only starts a second timer
    # vLLM refuses any choice of tools without a parser. A named or required function is held by a grammar
    # whichever it is; a model that writes its calls in another way than this one gives them as text.
    args.tool_call_parser = spec.tool_call_parser or "hermes"
    args.enable_auto_tool_choice = True
    if spec.reasoning_parser is not None:
        args.structured_outputs_config.reasoning_parser = spec.reasoning_parser
    return args
