"""The trackers that a run can report to: how each is started, gone on with, and given a table.

accelerate has one class for each, with the same few methods. Here is what those classes leave open: where the
files go (into the run's folder, unless the tracker's own variables say otherwise), which run of theirs a
resumed run goes on with, and what rollouts look like there.
"""

from __future__ import annotations

import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rft.errors import UserError
from rft.recipe.schema import TrackerName

COLUMNS = ("prompt", "answer", "reward", "reason")


@dataclass(frozen=True)
class About:
    """What a tracker is told when it starts."""

    project: str
    run_name: str
    run_id: str
    folder: Path
    """The tracker's own, inside the run's; made by then."""
    args: Mapping[str, Any]
    """From the recipe; they win over what is chosen here."""
    config: Mapping[str, Any]
    """The recipe, flat."""
    known_as: str | None = None
    """What the tracker called this run when it was first started, if it was."""


class Tracker(ABC):
    """One tracker, to be used from one thread."""

    package: ClassVar[str]
    install: ClassVar[str] = "pip install 'rft-loop[trackers]'"
    tracker: Any
    """accelerate's; set by `start`."""

    def __init__(self, folder: Path) -> None:
        """`folder`: the tracker's own. Raises UserError when the package cannot be imported."""
        self.prepare(folder)
        try:
            importlib.import_module(self.package)
        except Exception as error:  # a package that is there and broken raises what it likes
            raise UserError(
                f"tracking.to: {self.package} cannot be imported ({type(error).__name__}: {error}); "
                f"{self.install}, or take it out of the recipe"
            ) from error

    def prepare(self, folder: Path) -> None:  # noqa: B027  # most need nothing
        """What must be set before the package is imported."""

    @abstractmethod
    def start(self, about: About) -> str:
        """Starts it, or goes on with what `about.known_as` names; returns what it calls the run."""

    def log(self, step: int, values: Mapping[str, float], table: Sequence[Sequence[Any]]) -> None:
        """One step's numbers, and its rows of `COLUMNS` if there are any."""
        shown = {"rollouts": self.table(table)} if table else {}
        self.tracker.log({**values, **shown}, step=step)

    def table(self, rows: Sequence[Sequence[Any]]) -> Any:
        """The rows as a value that the tracker shows."""
        raise NotImplementedError


class WandB(Tracker):
    """Weights & Biases. Without a key (it never asks) it writes offline, for `wandb sync` to upload."""

    package = "wandb"

    def start(self, about: About) -> str:
        import wandb
        from accelerate.tracking import WandBTracker

        # What the terminal shows and what the source looks like is nobody else's business.
        settings = {"console": "off", "silent": True, "save_code": False, "disable_git": True}
        args = {
            "id": about.run_id,
            "name": about.run_name,
            "dir": str(about.folder),
            "resume": "allow",
            **about.args,
            "settings": {**settings, **about.args.get("settings", {})},
        }
        chosen = "mode" in args or "WANDB_MODE" in os.environ
        if not chosen and not wandb.login(prompt=False, verify=False):
            args["mode"] = "offline"
        self.tracker = WandBTracker(about.project, **args)
        self.tracker.start()
        return str(self.tracker.tracker.id)

    def table(self, rows: Sequence[Sequence[Any]]) -> Any:
        import wandb

        return wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])


class TensorBoard(Tracker):
    """Event files; rollouts are a text of each step."""

    package = "tensorboard"

    def start(self, about: About) -> str:
        from accelerate.tracking import TensorBoardTracker

        self.tracker = TensorBoardTracker(about.project, str(about.folder), **about.args)
        self.tracker.start()
        return about.run_id

    def table(self, rows: Sequence[Sequence[Any]]) -> Any:
        from rft.runs.summary import markdown_cell  # rich behind it is slow to import

        lines = ["| " + " | ".join(COLUMNS) + " |", "| --- | --- | --- | --- |"]
        lines += ["| " + " | ".join(markdown_cell(str(cell)) for cell in row) + " |" for row in rows]
        return "\n".join(lines)


class Trackio(Tracker):
    """Hugging Face's local dashboard: `TRACKIO_DIR=<run>/trackers/trackio trackio show`. It reads where its
    files go once in a process, so a second run in the same process reports into the first one's."""

    package = "trackio"
    install = "pip install trackio"

    def prepare(self, folder: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder.resolve()))

    def start(self, about: About) -> str:
        from accelerate.tracking import TrackioTracker

        config = dict(about.config)  # given to `init`, or going on would empty it
        args = {"name": about.run_id, "resume": "allow", "embed": False, "config": config, **about.args}
        self.tracker = TrackioTracker(about.project, **args)
        self.tracker.start()
        return str(args["name"])

    def table(self, rows: Sequence[Sequence[Any]]) -> Any:
        import pandas
        import trackio

        return trackio.Table(dataframe=pandas.DataFrame([list(row) for row in rows], columns=list(COLUMNS)))


class MLflow(Tracker):
    """mlflow at `MLFLOW_TRACKING_URI` or `args.tracking_uri`, else a SQLite file. Rollouts are artifacts."""

    package = "mlflow"
    install = "pip install mlflow"

    def start(self, about: About) -> str:
        import mlflow
        from accelerate.tracking import MLflowTracker

        args = dict(about.args)
        uri = args.pop("tracking_uri", None)
        if uri is None and "MLFLOW_TRACKING_URI" not in os.environ:
            folder = about.folder.resolve()
            uri = f"sqlite:///{folder}/mlflow.db"
            args.setdefault("logging_dir", str(folder / "artifacts"))
        if uri is not None:
            mlflow.set_tracking_uri(uri)
        args = {"run_name": about.run_name, "run_id": about.known_as, **args}
        self.tracker = MLflowTracker(about.project, **args)
        self.tracker.start()
        return str(self.tracker.tracker.info.run_id)

    def log(self, step: int, values: Mapping[str, float], table: Sequence[Sequence[Any]]) -> None:
        import mlflow

        allowed = {re.sub(r"[^\w\-. :/]", "_", key): value for key, value in values.items()}
        self.tracker.log(allowed, step=step)
        if table:
            data = {column: [row[n] for row in table] for n, column in enumerate(COLUMNS)}
            mlflow.log_dict(data, f"rollouts/step-{step:06d}.json")


KINDS: dict[TrackerName, type[Tracker]] = {
    "wandb": WandB,
    "trackio": Trackio,
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
}
