"""vLLM's OpenAI app talks to an `EngineClient`; this one is the embedded engine.

vLLM's own client always puts the engine into another process. The serving layer needs little of the protocol:
generate, abort, health, admission, and a few read-only objects. What would take the engine away from the
trainer (sleep, pause, weight transfer) is refused: here the trainer decides when the engine waits.

Engine failures reach the app as `VLLMServerError`, which it answers with a 500. vLLM's own engine errors
would make it shut the HTTP server down at once; whoever started the server decides that here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar

from vllm.engine.protocol import EngineClient
from vllm.exceptions import MaxQueuedTokensError, QueueOverflowError, VLLMServerError
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.renderers.inputs.preprocess import extract_prompt_components
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.exceptions import EngineDeadError

from rft.engine.vllm import VLLMEngine
from rft.errors import EngineError

T = TypeVar("T")
Outputs = AsyncIterator[RequestOutput]

BASE = "base"
"""The adapter name that means: the weights without the policy's adapter."""


class InProcessClient(EngineClient):
    """The embedded engine as vLLM's serving layer wants to see it. Safe to use beside rollouts."""

    def __init__(
        self, engine: VLLMEngine, *, watch: Callable[[Outputs], AsyncGenerator[RequestOutput, None]]
    ) -> None:
        """Args:
        engine: stays its owner's; nothing here closes it.
        watch: wraps each request's outputs, to see them pass.
        """
        self._engine = engine
        self._watch = watch
        self._numbers = itertools.count()
        self._running: dict[str, set[str]] = {}
        """The engine's request ids by the caller's, which a client may choose and repeat."""
        self.vllm_config = engine.llm.vllm_config
        self.model_config = engine.llm.model_config
        self.renderer = engine.llm.renderer
        self.input_processor = engine.llm.input_processor
        self._tasks = engine.call(engine.llm.get_supported_tasks)

    # --- requests ------------------------------------------------------------------------------

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        prompt_text: str | None = None,
        lora_request: LoRARequest | None = None,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs of one request. Leaving early, as the app does when a client hangs up, aborts it.

        Without a `lora_request` the policy answers, adapter included; an adapter named "base" means without.

        Raises:
            VLLMServerError: the engine died or the request was aborted.
            VLLMClientError: the prompt does not fit, or a sampling parameter is refused.
            QueueOverflowError, MaxQueuedTokensError: see `check_admission`.
        """
        if isinstance(prompt, AsyncGenerator):
            raise NotImplementedError(
                "prompts that arrive in pieces are not supported by the embedded engine"
            )
        self._check_alive()
        self.check_admission(sampling_params.n, request_id)
        lora_request = _adapter(lora_request, self._engine)
        engine_id = f"{request_id}-{next(self._numbers)}"
        request = self._prepare(engine_id, prompt, sampling_params, lora_request, options)
        if reasoning_ended is not None:
            request.reasoning_ended = reasoning_ended
        if reasoning_parser_kwargs is not None:
            request.reasoning_parser_kwargs = reasoning_parser_kwargs
        if prompt_text is None and prompt is not request:
            prompt_text = extract_prompt_components(self.model_config, prompt).text
        stream = self._engine.stream(
            request, request.params, request_id=engine_id, lora_request=lora_request, prompt_text=prompt_text
        )
        self._running.setdefault(request_id, set()).add(engine_id)
        try:
            async with aclosing(self._watch(stream)) as outputs:
                async for output in outputs:
                    yield output
        except EngineError as error:
            raise VLLMServerError(str(error)) from error
        finally:
            self._running[request_id].discard(engine_id)
            if not self._running[request_id]:
                del self._running[request_id]

    def _prepare(
        self,
        engine_id: str,
        prompt: Any,
        params: SamplingParams,
        lora: LoRARequest | None,
        options: Mapping[str, Any],
    ) -> EngineCoreRequest:
        """Validates here, in the caller's thread: a refused request never reaches the stepping thread."""
        if isinstance(prompt, EngineCoreRequest):
            prompt.request_id = engine_id  # the caller's may be in use
            return prompt
        return self.input_processor.process_inputs(
            engine_id, prompt, params, supported_tasks=self._tasks, lora_request=lora, **options
        )

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """Drops requests by the ids their callers gave; unknown ones are ignored."""
        for name in [request_id] if isinstance(request_id, str) else request_id:
            for engine_id in self._running.get(name, ()):
                self._engine.abort(engine_id)

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Holds vLLM's `max_num_queued_reqs` and `max_num_queued_tokens`, where they are set.

        Only served requests count towards the first: a full batch of rollouts must not lock clients out.

        Raises:
            QueueOverflowError, MaxQueuedTokensError: answered with a 503, which clients retry.
        """
        limits = self.vllm_config.scheduler_config
        running = sum(map(len, self._running.values()))
        if limits.max_num_queued_reqs is not None and running + n > limits.max_num_queued_reqs:
            raise QueueOverflowError()
        if limits.max_num_queued_tokens is not None:
            queued = self._engine.llm.output_processor.get_num_queued_tokens()
            if queued >= limits.max_num_queued_tokens:
                raise MaxQueuedTokensError()

    # --- health --------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the engine can answer."""
        return self._engine.error is None

    @property
    def is_stopped(self) -> bool:
        """Whether it no longer can."""
        return not self.is_running

    @property
    def errored(self) -> bool:
        """Whether the engine died of an error."""
        return self._engine.error is not None

    @property
    def dead_error(self) -> BaseException:
        """What to answer after that."""
        return VLLMServerError(f"the engine died: {type(self._engine.error).__name__}: {self._engine.error}")

    async def check_health(self) -> None:
        """Raises EngineDeadError, which `/health` answers with a 503."""
        if self.errored:
            raise EngineDeadError() from self._engine.error

    def _check_alive(self) -> None:
        if self.errored:
            raise self.dead_error

    async def do_log_stats(self) -> None:
        """Writes throughput and queue lengths to vLLM's log."""
        await self._call(self._engine.llm.do_log_stats)

    async def is_tracing_enabled(self) -> bool:
        """Never: OpenTelemetry spans are not recorded."""
        return False

    # --- what the engine can be told -----------------------------------------------------------

    async def get_supported_tasks(self) -> tuple[str, ...]:
        """("generate",) for a causal language model."""
        return tuple(self._tasks)

    async def get_weight_version(self) -> str:
        """Version of the weights that sample the next token."""
        return str(self._engine.version)

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Loads a further adapter for later requests."""
        return await self._call(lambda: self._engine.llm.add_lora(lora_request))

    async def remove_lora(self, lora_id: int) -> bool:
        """Forgets one."""
        return await self._call(lambda: self._engine.llm.remove_lora(lora_id))

    async def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forgets cached keys and values; False when requests in flight keep them."""
        return await self._call(
            lambda: self._engine.llm.reset_prefix_cache(reset_running_requests, reset_connector)
        )

    async def reset_mm_cache(self) -> None:
        """Forgets processed images and sounds."""
        await self._call(self._engine.llm.reset_mm_cache)

    async def reset_encoder_cache(self) -> None:
        """Forgets encoded images and sounds."""
        await self._call(self._engine.llm.reset_encoder_cache)

    async def _call(self, function: Callable[[], T]) -> T:
        """On the stepping thread, between two steps; the event loop goes on meanwhile."""
        return await asyncio.to_thread(self._engine.call, function)

    # --- refused -------------------------------------------------------------------------------

    def shutdown(self, timeout: float | None = None) -> None:
        """The engine outlives the server; its owner closes it."""

    async def is_sleeping(self) -> bool:
        """Never."""
        return False

    async def is_paused(self) -> bool:
        """Never, as seen from here: a weight update is over before a request would notice."""
        return False

    def encode(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("pooling")

    async def notify_kv_transfer_request_rejected(self, *_: Any, **__: Any) -> None:
        """There is no transfer to clean up after."""

    async def start_profile(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("profiling")

    async def stop_profile(self) -> NoReturn:
        _refuse("profiling")

    async def sleep(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("sleep")

    async def wake_up(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("sleep")

    async def release_kv_cache_memory(self) -> NoReturn:
        _refuse("releasing the cache")

    async def pause_generation(self, **_: Any) -> NoReturn:
        _refuse("pausing")

    async def resume_generation(self) -> NoReturn:
        _refuse("pausing")


def _adapter(asked: LoRARequest | None, engine: VLLMEngine) -> LoRARequest | None:
    """Looked up for each request: publishing replaces the policy's adapter."""
    if asked is None:
        return engine.policy_adapter
    return None if asked.lora_name == BASE else asked


def _refuse(what: str) -> NoReturn:
    raise NotImplementedError(f"{what} is not available: this engine is shared with its trainer")
