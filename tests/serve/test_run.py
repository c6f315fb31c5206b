"""`rft serve` as a user starts it: a process of its own, stopped by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import openai
import pytest

from rft.errors import ServeError
from rft.recipe.schema import EngineSpec, ServeSpec
from rft.serve.run import serve
from rft.serve.server import bind

pytestmark = pytest.mark.engine

PROGRAM = """
import sys
from rft.recipe.schema import EngineSpec, ServeSpec
from rft.runs.quiet import terminal
from rft.serve.run import serve

out = terminal("stdout")
spec = ServeSpec(port=0, api_key_env="SOME_KEY")
serve(sys.argv[1], spec, EngineSpec(max_model_len=256), say=lambda text: print(text, file=out, flush=True))
"""


def test_a_port_in_use_is_told_before_the_model_is_looked_at():
    taken = bind("127.0.0.1", 0)
    with pytest.raises(ServeError, match="in use"):
        serve("no-such-model", ServeSpec(port=taken.getsockname()[1]), EngineSpec(), say=print)
    taken.close()


def test_an_adapter_checkpoint_is_served_until_a_signal_and_only_our_lines_are_printed(
    tiny_model_dir, tiny_model, tmp_path
):
    from peft import LoraConfig, get_peft_model

    checkpoint = tmp_path / "step-000007"
    model = get_peft_model(tiny_model, LoraConfig(r=4, target_modules=["q_proj"]))
    model.save_pretrained(checkpoint)
    (checkpoint / "rft.json").write_text(json.dumps({"weight_version": 7, "base": str(tiny_model_dir)}))

    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(checkpoint)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SOME_KEY": "s3cret"},
    )
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        url = lines[1].split(" at ")[1].split()[0]
        client = openai.OpenAI(base_url=url, api_key="s3cret")
        models = [model.id for model in client.models.list()]
        answer = client.chat.completions.create(
            model="step-000007", messages=[{"role": "user", "content": "hi"}], max_tokens=3
        )
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert lines[0].startswith(f"loading {checkpoint} (log: ")
    assert lines[1].startswith("serving step-000007, weight version 7, at http://127.0.0.1:")
    assert "curl" in lines[3] and "$SOME_KEY" in lines[3] and "s3cret" not in "".join(lines)
    assert models == ["step-000007", "base"]
    assert answer.rft["weight_version"] == 7
    assert (process.returncode, errors) == (0, "")
    assert rest == "finishing requests in flight; again to stop now\n"
