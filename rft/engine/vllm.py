"""vLLM inside this process: one thread steps the engine, everyone else talks to that thread.

vLLM's own asynchronous engine always lives in another process, where the trainer cannot reach the
weights. Here the synchronous core runs in this process. All calls into it happen on the stepping thread,
between two steps; requests, aborts and weight updates arrive as closures in its inbox.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.llm_engine import LLMEngine

from rft.engine.base import Completion, Sampling
from rft.engine.params import completion_of, vllm_params
from rft.errors import EngineError
from rft.process import release_threads

T = TypeVar("T")


# vLLM shuts down with one engine what all engines of the process share, so that waits for the last of them.
_open: weakref.WeakSet[VLLMEngine] = weakref.WeakSet()


class _Stream:
    """One request's outputs on their way to the event loop that asked for them."""

    __slots__ = ("loop", "queue")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.queue: asyncio.Queue[RequestOutput | BaseException] = asyncio.Queue()


class VLLMEngine:
    """Asynchronous generation from any thread, on weights that this process owns."""

    def __init__(self, llm: LLMEngine) -> None:
        """Takes over `llm` and starts its stepping thread; see `rft.engine.open` for how to make one."""
        self.llm = llm
        self.policy_adapter: LoRARequest | None = None
        """The adapter that belongs to the policy; every request uses it unless it asks for the base."""
        self._version = 0
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._lock = threading.Lock()  # over _streams, and over the moment they are all told of the end
        self._ids = itertools.count()
        self._error: BaseException | None = None
        self._closing = False
        llm.set_weight_version("0")
        self._thread = threading.Thread(target=self._run, name="rft-engine", daemon=True)
        self._thread.start()
        _open.add(self)
        release_threads()  # loading `llm` has given this thread workers; the stepping thread needs its own

    # --- for callers on any thread -------------------------------------------------------------

    @property
    def version(self) -> int:
        """Version of the weights that sample the next token."""
        return self._version

    @property
    def error(self) -> BaseException | None:
        """What killed the engine, if anything did."""
        return self._error

    @property
    def model(self) -> Any:
        """vLLM's torch module."""
        return self.llm.model_executor.driver_worker.worker.model_runner.model

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus completion, in tokens."""
        return int(self.llm.model_config.max_model_len)

    async def generate(
        self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None
    ) -> Completion:
        """Continues `token_ids` and returns the tokens as sampled.

        Args:
            token_ids: the whole prompt; never re-tokenised.
            sampling: how to sample.
            adapter: None for the policy, "base" for the weights without its adapter.

        Raises:
            EngineError: the engine died, or the request was aborted from outside.
            ValueError: the prompt does not fit, or vLLM refuses a sampling parameter.
        """
        params = vllm_params(sampling)
        lora = None if adapter == "base" else self.policy_adapter
        final: RequestOutput | None = None
        prompt = TokensPrompt(prompt_token_ids=list(token_ids))
        try:
            async for output in self.stream(prompt, params, lora_request=lora):
                final = output
        except VLLMClientError as error:
            raise ValueError(str(error)) from error
        if final is None:
            raise EngineError("the engine ended a request without an answer")
        return completion_of(final)

    async def stream(
        self,
        prompt: Any,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        lora_request: LoRARequest | None = None,
        **options: Any,
    ) -> AsyncIterator[RequestOutput]:
        """vLLM's raw outputs of one request, the last one with `finished=True`.

        Leaving the loop early, or cancelling it, aborts the request. `options` go to
        `LLMEngine.add_request` (priority, prompt_text, ...).

        Raises ValueError for an id that is in flight already, and what `generate` raises.
        """
        request_id = request_id or f"rft-{next(self._ids)}"
        stream = _Stream(asyncio.get_running_loop())
        with self._lock:  # known before it is queued: whatever ends the engine now also ends this stream
            self._check_alive()
            if request_id in self._streams:
                raise ValueError(f"request id {request_id!r} is in flight already; give each request its own")
            self._streams[request_id] = stream

        def add() -> None:
            try:
                self.llm.add_request(request_id, prompt, params, lora_request=lora_request, **options)
            except Exception as error:  # the caller's fault (too long, bad parameter): theirs to see
                self.llm.abort_request([request_id])  # vLLM may have taken half of it
                self._take(request_id)
                _post(stream.loop, [(stream, error)])

        self._inbox.put(add)
        finished = False
        try:
            while not finished:
                item = await stream.queue.get()
                if isinstance(item, BaseException):
                    finished = True
                    raise item
                finished = item.finished
                yield item
        finally:
            if not finished:
                self.abort(request_id)

    def abort(self, request_id: str) -> None:
        """Drops a request, if it is still there; its stream ends with an EngineError."""

        def drop() -> None:
            stream = self._take(request_id)
            self.llm.abort_request([request_id])
            if stream is not None:
                aborted = EngineError(f"request {request_id} was aborted")
                _post(stream.loop, [(stream, aborted)])

        self._inbox.put(drop)

    def call(self, function: Callable[[], T]) -> T:
        """Runs `function` on the stepping thread between two steps, and waits for its result."""
        if threading.current_thread() is self._thread:
            return function()
        self._check_alive()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # handed to the waiting caller, whatever it is
                future.set_exception(error)

        self._inbox.put(run)
        while True:
            try:
                return future.result(timeout=1.0)
            except TimeoutError:
                if future.done():
                    return future.result()
                self._check_alive()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Holds the engine between two steps, so that its weights may be written. Requests wait.

        Do not nest it, nor use `call` inside: both would wait for a thread that waits for you.
        """
        parked, resume = threading.Event(), threading.Event()

        def park() -> None:
            parked.set()
            resume.wait()

        self._inbox.put(park)
        try:
            while not parked.wait(timeout=1.0):
                self._check_alive()
            yield
        finally:
            resume.set()

    def weights_changed(self, version: int) -> None:
        """Tells the engine that its weights now are `version`. Call it inside `paused()`.

        Requests in flight keep their tokens and go on under the new weights: their cached keys and
        values are recomputed, and their version spans say which weights sampled what.
        """
        self.llm.reset_prefix_cache(reset_running_requests=True)
        self.llm.set_weight_version(str(version))
        self._version = version

    def forget_prompts(self) -> None:
        """Empties the cache of keys and values. Requests in flight go on, theirs are recomputed."""
        with self.paused():
            self.llm.reset_prefix_cache(reset_running_requests=True)

    def add_adapter(self, folder: Path) -> None:
        """Loads or replaces the policy's adapter, peft's files in `folder`. Call it inside `paused()`.

        Raises EngineError when vLLM refuses it.
        """
        name, number = "policy", 1
        try:
            taken = self.llm.add_lora(LoRARequest(name, number, str(folder), load_inplace=True))
        except ValueError as error:  # a rank or a kind of adapter that vLLM does not have
            raise EngineError(f"vLLM refuses the adapter: {error}") from error
        if not taken:
            raise EngineError(f"vLLM did not take the adapter in {folder}")
        # Requests carry a twin without `load_inplace`, which would read the files again at every step.
        self.policy_adapter = LoRARequest(name, number, str(folder))

    def close(self) -> None:
        """Aborts what is in flight, stops the thread and frees the engine's memory."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._inbox.put(lambda: None)
        self._thread.join(timeout=30)
        self._fail_all(EngineError("the engine was closed"))
        _open.discard(self)
        client = self.llm.engine_core
        if not _open:
            client.shutdown()
            return
        # Its own part alone, and at once: kept until the last of them, closed engines hold their memory, and
        # each then searches the whole process for garbage. Detached, the client does not do it either.
        client._finalizer.detach()
        core = client.engine_core
        core.structured_output_manager.clear_backend()
        core.model_executor.shutdown()
        core.scheduler.shutdown()

    # --- on the stepping thread ----------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                idle = not self.llm.has_unfinished_requests()
                if idle:
                    release_threads()
                self._read_inbox(wait=idle)
                if self.llm.has_unfinished_requests():
                    self._deliver(self.llm.step())
            except BaseException as error:  # nothing above this frame could report it
                with self._lock:
                    self._error = error
                self._fail_all(EngineError(f"the engine died: {type(error).__name__}: {error}"))
                return

    def _read_inbox(self, *, wait: bool) -> None:
        try:
            while True:
                self._inbox.get(block=wait)()
                wait = False
        except queue.Empty:
            return

    def _deliver(self, outputs: Sequence[Any]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, Any]]] = {}
        for output in outputs:
            known = self._take if output.finished else self._streams.get
            stream = known(output.request_id)
            if stream is None:
                continue
            by_loop.setdefault(stream.loop, []).append((stream, output))
        for loop, items in by_loop.items():
            _post(loop, items)

    def _take(self, request_id: str) -> _Stream | None:
        with self._lock:
            return self._streams.pop(request_id, None)

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            streams, self._streams = self._streams, {}
        for stream in streams.values():
            _post(stream.loop, [(stream, error)])

    def _check_alive(self) -> None:
        if self._error is not None:
            raise EngineError(
                f"the engine died: {type(self._error).__name__}: {self._error}"
            ) from self._error
        if self._closing:
            raise EngineError("the engine is closed")


def _post(loop: asyncio.AbstractEventLoop, items: Sequence[tuple[_Stream, Any]]) -> None:
    """Wakes a loop once for all its outputs of a step. A loop that has gone away needs no answer."""

    def put() -> None:
        for stream, item in items:
            stream.queue.put_nowait(item)

    if not loop.is_closed():
        loop.call_soon_threadsafe(put)
