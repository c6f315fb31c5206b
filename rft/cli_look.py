"""The commands that only look: `rft recipe` and `rft runs`. None of them loads torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from rft.errors import RecipeError, UserError

if TYPE_CHECKING:
    from rft.runs.view import View

recipes = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
runs = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

PIPED_WIDTH = 160
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


def show(as_json: bool, values: Any, *shown: RenderableType) -> None:
    """Prints values as one line of JSON, or what stands for them on a terminal."""
    from rft.runs.files import to_json

    if as_json:
        print(to_json(values))
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH).print(*shown)


@contextlib.contextmanager
def open_view(
    total_steps: int, as_json: bool, debug: bool, unit: str = "step"
) -> Iterator[tuple[View, TextIO]]:
    """How a long command shows itself, and where its JSON line goes: a stdout that nobody else can reach."""
    from rft.runs.quiet import reserved_stdout, terminal
    from rft.runs.view import View

    with contextlib.ExitStack() as stack:
        out = stack.enter_context(reserved_stdout()) if as_json else terminal("stdout")
        file = terminal("stderr") if as_json else out
        console = Console(file=file, highlight=False, width=None if file.isatty() else PIPED_WIDTH)
        # The libraries' output, which --debug lets through, would tear a live table.
        yield View(total_steps, plain=True if as_json or debug else None, unit=unit, console=console), out


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows that all have the same columns."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in rows[0] if rows else ():
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(value)) for value in row.values()))
    return made


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
        show(True, loaded.model_dump(mode="json", by_alias=True))
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
    show(as_json, {"keys": keys}, table(keys))


@recipes.command("presets", epilog="Example: rft recipe presets")
def recipe_presets(as_json: Json = False) -> None:
    """List the presets: defaults by name, laid under a recipe by `preset: NAME`."""
    from rft.recipe.presets import list_presets

    rows = [{"preset": name, "what it is for": text} for name, text in list_presets()]
    show(as_json, {"presets": rows}, table(rows))


@recipes.command("list", epilog="Example: rft recipe list")
def recipe_list(as_json: Json = False) -> None:
    """List the shipped recipes."""
    from rft.recipe.load import list_recipes

    rows = [{"recipe": name, "what came out": text} for name, text in list_recipes()]
    show(as_json, {"recipes": rows}, table(rows))


@runs.command("list", epilog="Example: rft runs list --json")
def runs_list(output_dir: OutputDir = "runs", as_json: Json = False) -> None:
    """List all runs, oldest first."""
    from rft.runs.folder import list_runs
    from rft.runs.report import describe_run, runs_table

    found = [describe_run(run) for run in list_runs(output_dir)]
    empty = Text(f"no runs in {output_dir}/; `rft train RECIPE` makes one")
    show(as_json, {"runs": found}, runs_table(found) if found else empty)


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
    show(as_json, facts, run_page(folder, facts))


@runs.command("metrics", epilog="Example: rft runs metrics quickstart")
def runs_metrics(
    run: Annotated[
        str | None,
        typer.Argument(help="A run to take values from, of stages the newest; without one, all metrics."),
    ] = None,
    output_dir: OutputDir = "runs",
    as_json: Json = False,
) -> None:
    """Explain the metrics: what each means, where it should be, and what to set when it is not."""
    from rft.runs.folder import RunFolder
    from rft.runs.report import describe_metrics, metrics_table

    folder = RunFolder.open(run, output_dir) if run else None
    stages = folder.stages() if folder else []
    if stages:
        folder = stages[-1]
    found = describe_metrics(folder.metrics() if folder else None)
    which = [Text(f"stage {folder.name}, {folder.path}\n")] if folder and stages else []
    show(as_json, {"metrics": found}, *which, metrics_table(found))
