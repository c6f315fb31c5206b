"""The command `rft`: reads arguments, calls one function, prints what came back.

Everything heavy is imported inside the command that needs it, so that help and recipe checks are instant.
With `--json` stdout carries JSON lines alone; what else there is to say goes to stderr. Exit codes: 0, 2 for
a user's error (one line, no traceback), 1 for everything else, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from rft.errors import RecipeError, RftError, RunError, UserError

# Plain help, not boxes: it pipes, greps and pastes.
app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True
)
recipes = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
runs = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
app.add_typer(
    recipes,
    name="recipe",
    help="Look at recipes and check them.",
    epilog="Example: rft recipe check quickstart",
)
app.add_typer(runs, name="runs", help="Look at runs.", epilog="Example: rft runs show quickstart")

if TYPE_CHECKING:
    from rft.recipe.schema import EngineSpec, Recipe, ServeSpec
    from rft.runs.folder import RunFolder
    from rft.runs.view import View

_STACK = ("torch", "transformers", "vllm", "peft", "accelerate", "datasets")
_LONGEST = 400
"""Characters of an unexpected error's message that are shown."""
_PIPED_WIDTH = 160
"""Columns of a table that goes into a pipe; rich would squeeze it into 80."""

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A .yaml file, or the name of a shipped recipe.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys to set, e.g. train.steps=5.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A path, an id, or a recipe's name for its newest run.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
OutputDir = Annotated[str, typer.Option("--output-dir", metavar="DIR", help="Where runs are kept.")]


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


def _print(as_json: bool, values: Any, *shown: RenderableType) -> None:
    from rft.runs.files import to_json

    if as_json:
        print(to_json(values))
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(*shown)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    return table


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
    serve: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST]:PORT", help="Serve the weights over the OpenAI API while they are trained."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model with an evaluator. Ctrl-C finishes the step and saves; a second Ctrl-C stops at once."""
    from rft.recipe.load import load_recipe

    words = [*([recipe] if recipe else ()), *(overrides or ())]
    folder = _stopped_run(resume) if resume else None
    if folder is not None:
        words = [str(folder.recipe_path), *words]  # a run brings its recipe, so all words are overrides
    elif not words:
        raise UserError("name a recipe: a .yaml file, or one that `rft recipe list` shows")
    loaded = load_recipe(words[0], [*words[1:], *_serve_overrides(serve)])
    _train(loaded, folder, as_json, bool(context.obj))


def _stopped_run(which: str) -> RunFolder:
    from rft.runs.folder import RunFolder

    folder = RunFolder.open(which)
    if folder.status.word == "running":
        raise RunError(f"{folder.path} is still running, as process {folder.status.pid}; stop that first")
    return folder


def _train(recipe: Recipe, resumed: RunFolder | None, as_json: bool, debug: bool) -> None:
    from rft.runs.files import to_json

    with _view(recipe.train.steps, as_json, debug) as (view, out):
        from rft.train import train as run

        summary = run(recipe, view=view, resume=resumed, debug=debug)
        view.console.print(summary)
        if as_json:
            print(to_json(summary.to_json()), file=out)


@contextlib.contextmanager
def _view(total_steps: int, as_json: bool, debug: bool, unit: str = "step") -> Iterator[tuple[View, TextIO]]:
    """How a long command shows itself, and where its JSON line goes: a stdout that nobody else can reach."""
    from rft.runs.quiet import reserved_stdout, terminal
    from rft.runs.view import View

    with contextlib.ExitStack() as stack:
        out = stack.enter_context(reserved_stdout()) if as_json else terminal("stdout")
        file = terminal("stderr") if as_json else out
        console = Console(file=file, highlight=False, width=None if file.isatty() else _PIPED_WIDTH)
        # The libraries' output, which --debug lets through, would tear a live table.
        yield View(total_steps, plain=True if as_json or debug else None, unit=unit, console=console), out


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
    with _view(len(model or [""]), as_json, debug, unit="model") as (view, lines):
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
    _print(as_json, {"files": written}, Text("\n".join(told)))


@recipes.command("check", epilog="Example: rft recipe check mine.yaml train.steps=5")
def recipe_check(recipe: RecipeName, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check keys, names, files and the first rows of data, all at once and without loading a model."""
    from rft.preflight import check_recipe
    from rft.runs.files import to_json
    from rft.runs.quiet import reserved_stdout

    with reserved_stdout() as out:  # the user's own code is imported, and may print
        report = check_recipe(recipe, overrides or ())
        if as_json:
            problems = [asdict(problem) for problem in report.problems]
            print(to_json({"ok": report.ok, "problems": problems, "notes": report.notes}), file=out)
        elif report.ok:
            print("\n  ".join([f"{report.source}: no mistakes found", *report.notes]), file=out)
    if not report.ok:
        raise RecipeError(report.source, report.problems)


@recipes.command("show", epilog="Example: rft recipe show quickstart train.steps=5 > mine.yaml")
def recipe_show(recipe: RecipeName, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print a recipe with every key spelt out."""
    from rft.recipe.load import dump_recipe, load_recipe

    loaded = load_recipe(recipe, overrides or ())
    if as_json:
        _print(True, loaded.model_dump(mode="json", by_alias=True))
    else:
        print(dump_recipe(loaded), end="")


@recipes.command("keys", epilog="Example: rft recipe keys rollout")
def recipe_keys(
    prefix: Annotated[str, typer.Argument(help="Only keys below this one, e.g. train.optimizer.")] = "",
    as_json: Json = False,
) -> None:
    """List every key a recipe may have, with its type, default and meaning."""
    from rft.recipe.keys import describe_keys, nearest_key

    keys = [key._asdict() for key in describe_keys(prefix)]
    if not keys:
        near = nearest_key(prefix)
        raise UserError(
            f"no key {prefix!r}" + (f"; did you mean {near!r}?" if near else "; see `rft recipe keys`")
        )
    _print(as_json, {"keys": keys}, _table(keys))


@recipes.command("presets", epilog="Example: rft recipe presets")
def recipe_presets(as_json: Json = False) -> None:
    """List the presets: defaults by name, laid under a recipe by `preset: NAME`."""
    from rft.recipe.presets import list_presets

    rows = [{"preset": name, "what it is for": text} for name, text in list_presets()]
    _print(as_json, {"presets": rows}, _table(rows))


@recipes.command("list", epilog="Example: rft recipe list")
def recipe_list(as_json: Json = False) -> None:
    """List the shipped recipes."""
    from rft.recipe.load import list_recipes

    rows = [{"recipe": name, "what came out": text} for name, text in list_recipes()]
    _print(as_json, {"recipes": rows}, _table(rows))


@runs.command("list", epilog="Example: rft runs list --json")
def runs_list(output_dir: OutputDir = "runs", as_json: Json = False) -> None:
    """List all runs, oldest first."""
    from rft.runs.folder import list_runs
    from rft.runs.report import describe_run, runs_table

    found = [describe_run(run) for run in list_runs(output_dir)]
    empty = Text(f"no runs in {output_dir}/; `rft train RECIPE` makes one")
    _print(as_json, {"runs": found}, runs_table(found) if found else empty)


@runs.command("show", epilog="Example: rft runs show quickstart")
def runs_show(
    run: RunName,
    output_dir: OutputDir = "runs",
    as_json: Json = False,
) -> None:
    """Show where a run stands, how it went and where its files are."""
    from rft.runs.folder import RunFolder
    from rft.runs.report import describe_run, run_page

    folder = RunFolder.open(run, output_dir)
    facts = describe_run(folder)
    _print(as_json, facts, run_page(folder, facts))


@runs.command("metrics", epilog="Example: rft runs metrics quickstart")
def runs_metrics(
    run: Annotated[
        str | None, typer.Argument(help="A run to take values from; without one, all metrics.")
    ] = None,
    output_dir: OutputDir = "runs",
    as_json: Json = False,
) -> None:
    """Explain the metrics: what each means, where it should be, and what to set when it is not."""
    from rft.runs.folder import RunFolder
    from rft.runs.report import describe_metrics, metrics_table

    found = describe_metrics(RunFolder.open(run, output_dir).metrics() if run else None)
    _print(as_json, {"metrics": found}, metrics_table(found))
