"""The command `rft`: reads arguments, calls one function, prints what came back.

Everything heavy is imported inside the command that needs it, so that help and recipe checks are instant.
With `--json` stdout carries JSON lines alone; what else there is to say goes to stderr. Exit codes: 0, 2 for
a user's error (one line, no traceback), 1 for everything else, 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from rft.cli_evaluator import evaluators
from rft.cli_look import Json, OutputDir, Overrides, RecipeName, open_view, recipes, runs, show
from rft.errors import RecipeError, RftError, RunError, UserError

if TYPE_CHECKING:
    from rft.fork import Origin
    from rft.recipe.schema import EngineSpec, Recipe, ServeSpec
    from rft.runs.folder import RunFolder

# Plain help, not boxes: it pipes, greps and pastes.
app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True
)
app.add_typer(
    recipes,
    name="recipe",
    help="Look at recipes and check them.",
    epilog="Example: rft recipe check quickstart",
)
app.add_typer(
    evaluators,
    name="evaluator",
    help="Work on evaluators.",
    epilog="Example: rft evaluator serve ./graders.py:Near",
)
app.add_typer(runs, name="runs", help="Look at runs.", epilog="Example: rft runs show quickstart")

_STACK = ("torch", "transformers", "vllm", "peft", "accelerate", "datasets")
_LONGEST = 400
"""Characters of an unexpected error's message that are shown."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words  # taken out here, so that it may stand before and after a command's name
    try:
        app([word for word in words if word != "--debug"], prog_name="rft", obj=debug)
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(_one_line(error), file=sys.stderr)
        sys.exit(2 if _missing_stack(error) else getattr(error, "exit_code", 1))


def _one_line(error: Exception) -> str:
    notes = list(getattr(error, "__notes__", ()))
    said = str(error)
    if _missing_stack(error):
        said += "; training and serving need it: pip install 'rft-loop[cpu]', or [gpu]"
    elif not isinstance(error, RftError):
        said = f"{type(error).__name__}: " + " ".join(said.split())[:_LONGEST]
        notes.append("--debug shows the traceback")
    return f"error: {said}" + (f" ({'; '.join(notes)})" if notes else "")


def _missing_stack(error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _STACK


def _version(asked: bool) -> None:
    if asked:
        from rft import __version__

        print(f"rft {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: rft train quickstart")
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the libraries' output. May stand anywhere.")
    ] = False,
) -> None:
    """Reinforcement fine-tuning where experiment and production are one system."""


@app.command(epilog="Example: rft train recipes/quickstart.yaml train.steps=5 --serve :8000")
def train(
    context: typer.Context,
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A .yaml file, or the name of a shipped recipe.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run, with its own recipe: a path, an id, or a name for the newest.",
        ),
    ] = None,
    fork: Annotated[
        str | None,
        typer.Option(
            metavar="RUN[@STEP]",
            help="Begin a new run from a run's newest checkpoint or a step's; KEY=VALUE changes its recipe.",
        ),
    ] = None,
    serve: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST]:PORT", help="Serve the weights over the OpenAI API while they are trained."
        ),
    ] = None,
    accept_evaluator_change: Annotated[
        bool,
        typer.Option(
            "--accept-evaluator-change",
            help="Go on with another evaluator than the run began with.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model with an evaluator. Ctrl-C finishes the step and saves; a second Ctrl-C stops at once."""
    from rft.recipe.load import load_recipe

    if resume and fork:
        raise UserError("--resume goes on with a run, --fork begins a new one: take one of them")
    words = [*([recipe] if recipe else ()), *(overrides or ())]
    folder = _stopped_run(resume) if resume else None
    origin = _origin(fork) if fork else None
    if folder is not None:
        words = [str(folder.recipe_path), *words]  # a run brings its recipe, so all words are overrides
    elif origin is not None and (not words or "=" in words[0]):
        words = [*_recipe_of(origin), *words]  # as does a fork, unless another one is named
    elif not words:
        raise UserError("name a recipe: a .yaml file, or one that `rft recipe list` shows")
    loaded = load_recipe(words[0], [*words[1:], *_serve_overrides(serve)])
    start = {"resume": folder, "fork": origin, "accept_evaluator_change": accept_evaluator_change}
    _train(loaded, start, as_json, bool(context.obj))


def _stopped_run(which: str) -> RunFolder:
    from rft.runs.folder import RunFolder, whole_of

    folder = whole_of(RunFolder.open(which))
    if folder.status.word == "running":
        raise RunError(f"{folder.path} is still running, as process {folder.status.pid}; stop that first")
    return folder


def _origin(which: str) -> Origin:
    from rft.fork import Origin

    return Origin.find(which)


def _recipe_of(origin: Origin) -> list[str]:
    """A run's recipe; for a stage with name and place of the whole, so that its fork is no stage."""
    from rft.runs.folder import RunFolder, whole_of

    run = RunFolder(Path(origin.run))
    whole = whole_of(run)
    if whole.path == run.path:
        return [str(run.recipe_path)]
    return [str(run.recipe_path), f"name={whole.name}", f"train.output_dir={whole.path.parents[1]}"]


def _train(recipe: Recipe, start: Mapping[str, Any], as_json: bool, debug: bool) -> None:
    from rft.runs.files import to_json

    with open_view(recipe.train.steps, as_json, debug) as (view, out):
        from rft.stages import run_recipe

        summary = run_recipe(recipe, view=view, debug=debug, **start)
        view.console.print(summary)
        if as_json:
            print(to_json(summary.to_json()), file=out)


def _serve_overrides(address: str | None) -> list[str]:
    """`--serve` is short for two keys of the recipe, so that the resolved recipe tells what ran."""
    if address is None:
        return []
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UserError(f"--serve takes [HOST]:PORT, for example :8000, got {address!r}")
    host = host.removeprefix("[").removesuffix("]")
    return [f"serve.port={port}"] + ([f"serve.host='{host}'"] if host else [])


@app.command("eval", epilog="Example: rft eval quickstart --model quickstart --min-score 0.3")
def evaluate(
    context: typer.Context,
    recipe: RecipeName,
    overrides: Overrides = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A run, a checkpoint, a model, or an endpoint http://host:port/v1#name. May be repeated; "
            "the recipe's own model when left out."
        ),
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Held-out tasks; else eval.tasks.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Answers per task; else eval.samples.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Else eval.temperature; 0 is greedy.")
    ] = None,
    k: Annotated[list[int] | None, typer.Option("--k", help="Show pass@k. May be repeated.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="An answer passes from this score on; else the top of the range.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Fail unless every model's mean reaches this.")
    ] = None,
    no_worse_than: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Fail unless every other model is no worse than this one, or `first`."
        ),
    ] = None,
    margin: Annotated[float, typer.Option(min=0, help="How much worse still counts as no worse.")] = 0.0,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the endpoints' key.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Conversations with an endpoint at a time.")] = 16,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write everything as JSON, the answers too.")
    ] = None,
    output_dir: OutputDir = "runs",
    as_json: Json = False,
) -> None:
    """Compare models on a recipe's held-out tasks. Exit code 1 when --min-score or --no-worse-than fails."""
    from rft.recipe.load import load_recipe
    from rft.runs.files import to_json, write_whole

    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"--out: there is no folder {out.absolute().parent}")
    asked = {"eval.samples": samples, "eval.temperature": temperature}
    loaded = load_recipe(
        recipe, [*(overrides or ()), *(f"{key}={value}" for key, value in asked.items() if value is not None)]
    )
    debug = bool(context.obj)
    with open_view(len(model or [""]), as_json, debug, unit="model") as (view, lines):
        from rft.evaluate import Goals
        from rft.evaluate import evaluate as run

        found = run(
            loaded,
            model or (),
            view=view,
            tasks=tasks,
            ks=k or (),
            threshold=threshold,
            goals=Goals(min_score, no_worse_than, margin),
            api_key_env=api_key_env,
            concurrency=concurrency,
            output_dir=output_dir,
            debug=debug,
        )
        view.console.print(found)
        if out is not None:
            write_whole(out, to_json(found.to_json(with_answers=True)) + "\n")
        if as_json:
            print(to_json(found.to_json()), file=lines)
    if not found.passed:
        raise typer.Exit(1)


@app.command(epilog="Example: rft serve quickstart serve.port=9000 serve.api_key_env=MY_KEY")
def serve(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(help="A run, a checkpoint or a model: what `rft train` made or takes.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Keys below serve. and engine., as in a recipe."),
    ] = None,
    output_dir: OutputDir = "runs",
) -> None:
    """Serve a model over the OpenAI API until Ctrl-C."""
    from rft.runs.quiet import terminal
    from rft.serve.run import serve as run

    listen, engine = _serving(overrides or ())
    out = terminal("stdout")
    run(
        target,
        listen,
        engine,
        output_dir=output_dir,
        say=lambda text: print(text, file=out, flush=True),
        debug=bool(context.obj),
    )


def _serving(overrides: Sequence[str]) -> tuple[ServeSpec, EngineSpec]:
    """The two sections of a recipe that serving needs, from overrides alone. Raises RecipeError."""
    from pydantic import ValidationError, create_model

    from rft.recipe.draft import make_draft
    from rft.recipe.keys import nearest_key
    from rft.recipe.problems import from_pydantic
    from rft.recipe.schema import EngineSpec, Section, ServeSpec

    def nearest(path: str) -> str | None:
        near = nearest_key(path)
        return near if near and near.startswith(("serve.", "engine.")) else None

    draft = make_draft("rft serve", Path.cwd(), "{}", overrides)
    sections = create_model("Sections", __base__=Section, serve=(ServeSpec, {}), engine=(EngineSpec, {}))
    try:
        found: Any = sections.model_validate(draft.data)
    except ValidationError as error:
        draft.blame(from_pydantic(error, draft.data, "", nearest))
    if draft.problems:
        raise RecipeError(draft.source, draft.problems)
    return found.serve, found.engine


@app.command(epilog="Example: rft init my-task")
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; made when it does not exist.")],
    name: Annotated[str | None, typer.Option(help="The recipe's name; the folder's when unset.")] = None,
    as_json: Json = False,
) -> None:
    """Write a new task that works as it is: a recipe, an evaluator, ten tasks and a test, ready to edit."""
    from rft.scaffold import init as write

    written = [str(path) for path in write(folder, name or folder.resolve().name)]
    told = [*written, "", f"next: rft recipe check {folder}/recipe.yaml, then rft train {folder}/recipe.yaml"]
    show(as_json, {"files": written}, Text("\n".join(told)))
