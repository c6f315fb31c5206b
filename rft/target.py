"""What `rft serve` and `rft eval` are pointed at: a run, a checkpoint or a model, as folders to load.

    quickstart                                      a recipe's newest run, and its newest whole checkpoint
    20260314-092653-k7f3, runs/quickstart/2026...   a run by id or path
    runs/quickstart/2026.../checkpoints/step-000012 one checkpoint
    ./my-model, Qwen/Qwen2.5-0.5B, packaged:tiny    anything that `model.source` may name

What exists as a folder or a run wins over a hub id of the same spelling. An adapter's checkpoint holds the
adapter alone, in peft's format; `rft.json` beside it says what it belongs on and how new it is:

    {"weight_version": 12, "base": "packaged:smollm2-135m-instruct"}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rft.engine.open import open_engine
from rft.errors import ModelError, RunError
from rft.models.source import locate
from rft.recipe.schema import EngineSpec
from rft.runs.checkpoint import latest
from rft.runs.folder import RunFolder

if TYPE_CHECKING:
    from rft.engine.vllm import VLLMEngine

_ABOUT = "rft.json"


@dataclass(frozen=True)
class Target:
    """Where weights lie, and their version: 0 for a model that was not trained here."""

    name: str
    model_dir: Path
    adapter_dir: Path | None = None
    version: int = 0

    @property
    def tokenizer_dir(self) -> Path:
        """An adapter's own tokenizer where it has one: its chat template is the one that was trained with."""
        if self.adapter_dir is not None and (self.adapter_dir / "tokenizer_config.json").is_file():
            return self.adapter_dir
        return self.model_dir

    @property
    def adapter_rank(self) -> int | None:
        """Columns of the adapter's matrices; None without one. Raises ModelError for a damaged config."""
        if self.adapter_dir is None:
            return None
        return int(_read(self.adapter_dir / "adapter_config.json")["r"])


def resolve_target(target: str, output_dir: str | Path = "runs") -> Target:
    """Finds what `target` names and fetches its model if need be.

    Raises:
        RunError: the run has no checkpoint yet.
        ModelError: nothing of that name is a run or a model, or it cannot be fetched.
    """
    path = Path(target).expanduser()
    if (path / "adapter_config.json").is_file() or (path / "config.json").is_file():
        return _checkpoint(path.absolute())
    try:
        run = RunFolder.open(path if path.exists() else target, output_dir)
    except RunError as no_run:
        try:
            name = path.stem if path.exists() else target.removeprefix("packaged:")
            return Target(name, locate(target))
        except ModelError as no_model:
            raise ModelError(f"{target} is neither a run ({no_run}) nor a model ({no_model})") from no_model
    newest = latest(run)
    if newest is None:
        raise RunError(f"run {run.id} has no checkpoint yet; let it finish, or set train.checkpoint.every")
    return _checkpoint(newest.absolute())


def open_target(
    target: Target,
    spec: EngineSpec,
    *,
    dtype: str,
    max_model_len: int,
    max_num_seqs: int,
    seed: int = 0,
    served_name: str,
    trust_remote_code: bool = False,
) -> VLLMEngine:
    """An engine with the target's weights, adapter included. Nobody will write them, so vLLM may repack them.

    Arguments and errors are those of `rft.engine.open.open_engine`.
    """
    args = {} if target.tokenizer_dir == target.model_dir else {"tokenizer": str(target.tokenizer_dir)}
    engine = open_engine(
        spec.model_copy(update={"args": args | spec.args}),
        target.model_dir,
        dtype=dtype,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        seed=seed,
        plain_weights=False,
        served_name=served_name,
        lora_rank=target.adapter_rank,
        trust_remote_code=trust_remote_code,
    )
    with engine.paused():
        if target.adapter_dir is not None:
            engine.add_adapter(target.adapter_dir)
        engine.weights_changed(target.version)
    return engine


def _checkpoint(folder: Path) -> Target:
    about = _read(folder / _ABOUT) if (folder / _ABOUT).is_file() else {}
    in_run = folder.parent.name == "checkpoints" and (folder.parents[1] / "recipe.yaml").is_file()
    name = folder.parents[2].name if in_run else folder.name
    version = int(about.get("weight_version", 0))
    if not (folder / "adapter_config.json").is_file():
        return Target(name, locate(str(folder)), version=version)
    # peft's own note comes second: it may be a folder of the machine that trained.
    base = about.get("base") or _read(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{folder} is an adapter that names no base model; add {_ABOUT} with `base`")
    return Target(name, locate(base, revision=about.get("revision")), folder, version)


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); the checkpoint is damaged, use another one"
        ) from error
