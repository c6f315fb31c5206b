"""The commands about evaluators: `rft evaluator`. None of them loads torch unless the evaluator does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from rft.cli_look import Json, OutputDir, RunName, open_view, show, table
from rft.errors import RecipeError, UserError
from rft.evaluator import Evaluator

evaluators = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

EvaluatorName = Annotated[
    str, typer.Argument(metavar="EVALUATOR", help="A name, module:Class or ./file.py:Class.")
]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Its options, as below `with:` in a recipe.")
]


@evaluators.command("check", epilog="Example: rft evaluator check recipe.yaml --policy")
def check(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="RECIPE|EVALUATOR", help="A recipe, or an evaluator by its name.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Keys of the recipe, or options of the evaluator."),
    ] = None,
    policy: Annotated[
        bool, typer.Option("--policy", help="Sample the recipe's model too, as its training would.")
    ] = False,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts to sample for --policy.")] = 16,
    rollouts: Annotated[
        str | None, typer.Option(metavar="RUN", help="Try it on the rollouts that a run has stored.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judged by people: .csv or .jsonl with prompt, completion, label."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="FILE", help="Tasks with references, where there is no recipe.")
    ] = None,
    controls: Annotated[
        int, typer.Option(metavar="STEPS", min=0, help="Train so many steps with it and with each control.")
    ] = 0,
    only: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Only this stage. May be repeated; not kept.")
    ] = None,
    thresholds: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A threshold, e.g. auc_warn=0.85. May be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write report.json and report.md there too.")
    ] = None,
    output_dir: OutputDir = "runs",
    as_json: Json = False,
) -> None:
    """Test an evaluator before a model trains on it. Exit code 1 when a stage fails; warnings pass.

    The report is kept by the evaluator's fingerprint, where `rft train` looks for it.
    """
    from rft.check.human import read_labels
    from rft.check.report import store_report
    from rft.examine import examine, read_thresholds
    from rft.gather import gather, is_recipe
    from rft.recipe.load import load_recipe
    from rft.recipe.resolve import resolve_evaluator
    from rft.runs.files import to_json

    limits = read_thresholds(thresholds or ())
    loaded = load_recipe(target, options or ()) if is_recipe(target) else None
    if loaded is None and (policy or controls):
        raise UserError(f"--policy and --controls need a recipe, with its model, and {target} is none")
    if policy and rollouts:
        raise UserError("--policy samples rollouts and --rollouts reads a run's; give one of them")
    with open_view(1, as_json, bool(context.obj), unit="stage") as (view, lines):
        judge = resolve_evaluator(loaded.evaluator) if loaded else named(target, options or ())
        with view:
            material = gather(
                loaded,
                view,
                tasks=tasks,
                prompts=prompts if policy else 0,
                rollouts=rollouts,
                labels=read_labels(labels) if labels else (),
                controls=controls,
                output_dir=output_dir,
                debug=bool(context.obj),
            )
            report = examine(judge, material, stages=only or (), thresholds=limits, on_stage=view.phase)
        view.console.print(report)
        if report.complete:
            store_report(report)
        if out is not None:
            store_report(report, out, "report")
        if as_json:
            print(to_json(report.to_json()), file=lines)
        for line in report.annotations():
            print(line, file=sys.stderr)
    if not report.passed:
        raise typer.Exit(1)


@evaluators.command("list", epilog="Example: rft evaluator list")
def list_(as_json: Json = False) -> None:
    """List the installed evaluators: what each judges, what it reads, and what is missing to use it."""
    from rft.catalogue import installed

    rows = installed()
    show(as_json, {"evaluators": rows}, table(rows))


@evaluators.command("new", epilog="Example: rft evaluator new polite")
def new(
    name: Annotated[str, typer.Argument(help="What it judges, as a Python name.")],
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to.")] = Path(),
    as_json: Json = False,
) -> None:
    """Write an evaluator with golden cases and a test, ready to edit."""
    from rft.scaffold import new_evaluator

    written = [str(path) for path in new_evaluator(folder, name)]
    todo = f"next: rft evaluator check ./{written[0]}:{name}, then edit it"
    show(as_json, {"files": written}, Text("\n".join([*written, "", todo])))


@evaluators.command("import", epilog="Example: rft evaluator import grader.json")
def import_(
    grader: Annotated[Path, typer.Argument(metavar="GRADER.JSON", help="An OpenAI grader.")],
    name: Annotated[str | None, typer.Option(help="Of the evaluator; else the grader's own.")] = None,
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to.")] = Path(),
    as_json: Json = False,
) -> None:
    """Translate an OpenAI grader into a module of your own; what cannot be carried over is refused."""
    from rft.adapters.openai_import import name_for, read_grader, translate
    from rft.scaffold import write_module

    raw = read_grader(grader)
    called = name or name_for(raw, grader)
    path = write_module(folder, called, translate(raw, name=called, origin=grader.name))
    todo = f"next: read it, then rft evaluator check ./{path}:{called}"
    show(as_json, {"files": [str(path)], "evaluator": f"{path}:{called}"}, Text(f"{path}\n\n{todo}"))


@evaluators.command("replay", epilog="Example: rft evaluator replay quickstart --evaluator ./graders.py:Near")
def replay(
    run: RunName,
    evaluator: Annotated[
        str | None,
        typer.Option(metavar="EVALUATOR", help="Another one than the run's own, as that is now."),
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--with", metavar="KEY=VALUE", help="Its options. May be repeated.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Only the newest so many steps.")] = None,
    output_dir: OutputDir = "runs",
    as_json: Json = False,
) -> None:
    """Score a run's stored rollouts again, and list the advantages that would change sign."""
    from rft.recipe.load import load_recipe
    from rft.recipe.resolve import resolve_evaluator
    from rft.replay import replay as score_again
    from rft.runs.folder import RunFolder

    folder = RunFolder.open(run, output_dir)
    if evaluator is not None:
        judge = named(evaluator, options or ())
    elif options:
        raise UserError("--with gives options to the --evaluator named beside it; name one")
    else:
        judge = resolve_evaluator(load_recipe(folder.recipe_path).evaluator)
    found = score_again(folder, judge, last_steps=steps)
    show(as_json, found.to_json(), found)


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
    from rft.secrets import Secret

    try:
        from rft.http.serve import serve as run
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs {error.name}: pip install 'rft-loop[serve]'") from error

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
