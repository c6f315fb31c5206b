"""What many tests share: a tiny random model, and nothing downloaded.

Every fixture that costs more than a moment is made once per session.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# A busy machine is not a broken property.
settings.register_profile("rft", deadline=None)
settings.load_profile("rft")

# Before torch is imported anywhere: the suite runs beside an engine on few cores, and a test that reaches for
# the network shall fail at once instead of waiting for it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from rft.engine.vllm import VLLMEngine


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with the two-layer random model, tied embeddings. Do not write into it."""
    from rft.models.tiny import build_tiny

    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return folder


@pytest.fixture
def tiny_model(tiny_model_dir: Path) -> LlamaForCausalLM:
    """The tiny model loaded anew for each test, float32, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype="float32").eval()


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model_dir: Path) -> PreTrainedTokenizerFast:
    """Its byte-level tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="session")
def engine(tiny_model_dir: Path) -> Iterator[VLLMEngine]:
    """The session's one vLLM engine: the tiny model, float32, weights that tests may write and put back."""
    from rft.engine.open import open_engine
    from rft.recipe.schema import EngineSpec

    engine = open_engine(
        # Its positions are rotations, so it may read on beyond what its config says; judges need the room.
        EngineSpec(args={"hf_overrides": {"max_position_embeddings": 4096}}),
        tiny_model_dir,
        dtype="float32",
        max_model_len=4096,
        max_num_seqs=32,
        seed=0,
        plain_weights=True,
        lora_rank=8,
    )
    yield engine
    engine.close()


@pytest.fixture(scope="module", autouse=True)
def engine_stays_open(request: pytest.FixtureRequest) -> None:
    """Starts the session's engine before modules start engines of their own.

    With the last engine of a process vLLM shuts down what they share and searches the whole process for
    garbage, several times; beside another one an engine comes and goes in a second.
    """
    if request.node.get_closest_marker("engine"):
        request.getfixturevalue("engine")
