"""Lesson 3: the model answers over an OpenAI-compatible endpoint while it is trained. Under a minute.

`--serve` puts vLLM's own OpenAI app on the training engine. Each answer says which weights made it; watch the
version rise between two questions.

    python examples/03_serve_and_chat_while_it_trains.py
"""

import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

RECIPE = """
name: chatty
model: packaged:tiny
data: {train: tasks.jsonl}
evaluator: {use: length, with: {min: 20, max: 40, unit: characters}}
rollout: {group_size: 8, max_new_tokens: 24}
train: {steps: 30, prompts_per_step: 4, learning_rate: 0.005}
eval: {every: 0, tasks: 4}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def ask(url: str) -> tuple[str, int]:
    """One chat answer and the version of the weights that gave it."""
    answer = httpx.post(
        f"{url}/v1/chat/completions",
        json={"model": "chatty", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 8},
        timeout=60,
    )
    answer.raise_for_status()
    return answer.json()["choices"][0]["message"]["content"], int(answer.headers["X-RFT-Weight-Version"])


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="rft-lesson-"))
    tasks = [{"prompt": f"Count to {number}."} for number in range(30)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    (folder / "recipe.yaml").write_text(RECIPE)

    port = free_port()
    training = subprocess.Popen(
        [
            "rft",
            "train",
            str(folder / "recipe.yaml"),
            f"train.output_dir={folder}/runs",
            "--serve",
            f":{port}",
        ]
    )
    versions = []
    try:
        while training.poll() is None:
            try:
                text, version = ask(f"http://127.0.0.1:{port}")
            except httpx.HTTPError:  # not up yet, or just finished
                time.sleep(0.5)
                continue
            if not versions or version > versions[-1]:
                versions.append(version)
                print(f"weights {version:2d} say {text!r}", flush=True)
    finally:
        if training.wait() != 0:
            raise SystemExit("training failed")
    print("weight versions that answered:", versions)
    if len(versions) < 2:
        raise SystemExit("the endpoint never answered with newer weights")


if __name__ == "__main__":
    main()
