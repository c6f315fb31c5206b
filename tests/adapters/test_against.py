"""Each bridge against the package it bridges to, as its makers ship it, in the environment that has them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".side-env" / "bin" / "python"


@pytest.mark.side_env
@pytest.mark.skipif(not PYTHON.exists(), reason="no .side-env; scripts/side-env makes it in a minute")
@pytest.mark.parametrize("tests", ["test_verifiers.py", "test_eval_protocol.py", "test_inspect.py"])
def test_the_bridge_carries_what_the_real_package_gives(tests):
    command = [PYTHON, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull]
    # litellm, which eval-protocol imports, would ask the network for a price list.
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [*command, ROOT / "tests/adapters/against" / tests], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
