"""The commands about evaluators: `rft evaluator`. None of them loads torch unless the evaluator does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rft.errors import RecipeError
from rft.evaluator import Evaluator

evaluators = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

EvaluatorName = Annotated[
    str, typer.Argument(metavar="EVALUATOR", help="A name, module:Class or ./file.py:Class.")
]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Its options, as below `with:` in a recipe.")
]


@evaluators.command("serve", epilog="Example: rft evaluator serve ./graders.py:Near within=2 --port 8090")
def serve(
    evaluator: EvaluatorName,
    options: Options = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8090,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="env:NAME", help="Where the key is that callers must send as a bearer token."),
    ] = None,
) -> None:
    """Let others score by this evaluator over HTTP, until Ctrl-C; `use: http` in a recipe speaks to it."""
    from rft.http.serve import serve as run
    from rft.secrets import Secret

    key = None if api_key is None else Secret(api_key)
    run(
        named(evaluator, options or ()),
        host=host,
        port=port,
        api_key=key,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )


def named(name: str, options: Sequence[str] = ()) -> Evaluator:
    """The evaluator of this name with KEY=VALUE options. Raises ResolveError, RecipeError."""
    from rft.recipe.draft import make_draft
    from rft.recipe.resolve import resolve_evaluator
    from rft.recipe.schema import Use

    draft = make_draft(name, Path.cwd(), "{}", [f"evaluator.with.{option}" for option in options])
    if draft.problems:
        raise RecipeError(draft.source, draft.problems)
    given = draft.data.get("evaluator", {}).get("with", {})
    return resolve_evaluator(Use.model_validate({"use": name, "with": given}), Path.cwd())
