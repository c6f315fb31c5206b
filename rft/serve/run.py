"""`rft serve`: an engine without a trainer, behind the same app that serves during training.

Nobody writes these weights, so vLLM may repack them for speed.
"""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rft.engine.open import prepare_process
from rft.errors import EngineError
from rft.recipe.schema import EngineSpec, ServeSpec
from rft.runs.quiet import Quiet
from rft.serve.server import Server, listen
from rft.target import Target, open_target, resolve_target

if TYPE_CHECKING:
    from rft.engine.vllm import VLLMEngine

_MAX_NUM_SEQS = 64
_MAX_MODEL_LEN = 8192  # a model's own limit can be 128k tokens, whose cache would not fit beside it


def serve(
    target: str,
    spec: ServeSpec,
    engine: EngineSpec,
    *,
    output_dir: str = "runs",
    say: Callable[[str], None],
    debug: bool = False,
) -> None:
    """Serves a run's newest checkpoint, a checkpoint or a model until SIGINT or SIGTERM. Main thread only.

    Args:
        target: see `rft.target`.
        spec: where to listen, under which name, with which key.
        engine: vLLM's settings; `publish` and the parity keys mean nothing here.
        output_dir: where runs are looked for.
        say: shows one line to the user; must reach the terminal although the libraries' output goes to a log.
        debug: leave the libraries' output on the terminal.

    Raises:
        ServeError: the port is in use, the key's variable is not set, a parser is unknown.
        RunError, ModelError: `target` leads nowhere, or does not fit into memory.
        EngineError: the engine died while serving.
    """
    with ExitStack() as stack:
        sock = stack.enter_context(listen(spec, say))
        found = resolve_target(target, output_dir)
        log = Path(tempfile.mkdtemp(prefix="rft-serve-"), "serve.log")
        say(f"loading {found.adapter_dir or found.model_dir} (log: {log})")
        stack.enter_context(Quiet(log, debug=debug))
        prepare_process()
        from rft.serve.app import build, check

        check(spec)
        name = spec.model_name or found.name
        vllm = stack.enter_context(closing(_open(found, spec, engine, name)))
        server = Server(lambda: build(vllm, spec, name), sock)
        stop = stack.enter_context(_stop_signals())
        server.start()
        stack.callback(server.stop)
        for line in _welcome(server.url, name, found.version, spec.api_key_env):
            say(line)
        while not stop.wait(timeout=0.5):
            if vllm.error is not None:
                raise EngineError(f"the engine died: {vllm.error}") from vllm.error
        say("finishing requests in flight; again to stop now")


def _open(target: Target, spec: ServeSpec, engine: EngineSpec, name: str) -> VLLMEngine:
    from transformers import AutoConfig

    from rft.models.policy import pick_dtype  # brings torch, which must come after prepare_process

    trust = bool(engine.args.get("trust_remote_code"))
    config = AutoConfig.from_pretrained(target.model_dir, trust_remote_code=trust)
    longest = getattr(config.get_text_config(), "max_position_embeddings", _MAX_MODEL_LEN)
    args = {"reasoning_parser": spec.reasoning_parser} if spec.reasoning_parser else {}
    return open_target(
        target,
        engine.model_copy(update={"args": args | engine.args}),
        dtype=pick_dtype(engine.dtype),
        max_model_len=min(longest, _MAX_MODEL_LEN),
        max_num_seqs=_MAX_NUM_SEQS,
        served_name=name,
    )


def _welcome(url: str, name: str, version: int, api_key_env: str | None) -> Iterator[str]:
    yield f"serving {name}, weight version {version}, at {url}/v1 (Ctrl-C stops)"
    yield "try it:"
    key = f' -H "Authorization: Bearer ${api_key_env}"' if api_key_env else ""
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    yield f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second acts as it always does."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(*_: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
