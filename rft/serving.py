"""The endpoint beside a training run: its socket before anything slow, its server once there is an engine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.recipe.schema import EngineSpec, Recipe
from rft.runs.view import View

if TYPE_CHECKING:
    from rft.engine.vllm import VLLMEngine


def listening(recipe: Recipe, view: View, stack: ExitStack) -> Any:
    """The endpoint's socket, taken before anything slow: a port in use should cost a second."""
    if recipe.serve is None:
        return None
    from rft.serve.server import listen

    sock = listen(recipe.serve, view.note)
    stack.callback(sock.close)
    return sock


def for_serving(recipe: Recipe) -> EngineSpec:
    """The engine's section, with what a served reasoning model needs; a wrong parser shows here."""
    if recipe.serve is None:
        return recipe.engine
    from rft.serve.app import check

    check(recipe.serve)
    if recipe.serve.reasoning_parser is None:
        return recipe.engine
    args = {"reasoning_parser": recipe.serve.reasoning_parser, **recipe.engine.args}
    return recipe.engine.model_copy(update={"args": args})


def serve_while_training(recipe: Recipe, engine: VLLMEngine, sock: Any, view: View, stack: ExitStack) -> None:
    """Answers requests on `sock` until the stack is left."""
    from rft.serve.app import build
    from rft.serve.server import Server

    spec = recipe.serve
    assert spec is not None
    server = Server(
        lambda: build(engine, spec, recipe.name, chat_template=_path(recipe.model.chat_template)), sock
    )
    server.start()
    stack.callback(server.stop)
    view.note(f"serving {spec.model_name or recipe.name} on {server.url}/v1")


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
