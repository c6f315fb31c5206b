"""The whole loop on the tiny model: what it leaves behind, how it stops, and how it goes on."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rft.cli import main
from rft.errors import RunStopped, UserError
from rft.recipe.load import load_recipe
from rft.runs.folder import RunFolder, list_runs
from rft.runs.metrics import find_metric
from rft.runs.summary import Summary
from rft.runs.view import View

pytestmark = pytest.mark.engine

RFT = Path(sys.executable).with_name("rft")

RECIPE = """\
name: tiny
seed: 3
model: {source: packaged:tiny, dtype: float32}
data: {train: tasks.jsonl}
evaluator: ./grader.py:early_letters
rollout: {group_size: 4, max_new_tokens: 12}
train:
  steps: 3
  prompts_per_step: 2
  learning_rate: 1e-3
  checkpoint: {every: 1, keep: 3}
eval: {tasks: 4, every: 1}
"""
GRADER = """\
import os
import signal

from rft import Case, Cost, Limits, Score, evaluator

seen = 0


def _count():
    global seen
    seen += 1
    return seen


@evaluator
def early_letters(text):
    return sum(byte % 64 < 32 for byte in text.encode()) / max(1, len(text.encode()))


@evaluator(deterministic=False)
def interrupting(text):
    # 4 held-out tasks, 8 rollouts, 4 held-out tasks; then the second step is under way
    if _count() == 20:
        os.kill(os.getpid(), signal.SIGINT)
    return sum(byte % 64 < 32 for byte in text.encode()) / max(1, len(text.encode()))


@evaluator(deterministic=False)
def breaking(text):
    if _count() > 4 + 8 + 4:
        raise KeyError("fee")
    return sum(byte % 64 < 32 for byte in text.encode()) / max(1, len(text.encode()))


@evaluator(deterministic=False, cases=[Case(prompt="Say something.", completion="golden", expect=1.0)])
def drifting(text):
    if text == "golden":  # fine before the run and after its first step
        return 1.0 if _count() <= 2 else 0.5
    return sum(byte % 64 < 32 for byte in text.encode()) / max(1, len(text.encode()))


@evaluator(limits=Limits(max_usd=1.0), cases=[Case(prompt="Say something.", completion="golden", expect=1.0)])
def dear(text):
    return Score(1.0, cost=Cost(usd=0.1))
"""


def write(folder: Path) -> Path:
    (folder / "grader.py").write_text(GRADER)
    rows = [{"prompt": f"Say something about {number}."} for number in range(24)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE)
    return recipe


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write(tmp_path)


class Finished(NamedTuple):
    process: subprocess.CompletedProcess[str]
    run: RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Three steps, as a user starts them."""
    folder = tmp_path_factory.mktemp("finished")
    write(folder)
    process = subprocess.run(
        [RFT, "train", "tiny.yaml", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return Finished(process, RunFolder.open("tiny", folder / "runs"))


def train(recipe: Path, *overrides: str, resume: RunFolder | None = None) -> Summary:
    """The same page in this process; a further engine costs a second here."""
    from rft.train import train

    loaded = load_recipe(resume.recipe_path if resume else recipe, list(overrides))
    return train(loaded, view=View(loaded.train.steps, quiet=True), resume=resume)


def numbers(run: RunFolder) -> list[dict[str, Any]]:
    """A run's metrics without what depends on the machine's mood."""
    return [
        {
            name: value
            for name, value in step.items()
            # Whether a rollout finds the verdict of an identical one is a matter of time too.
            if not name.startswith(("time/", "memory/", "rollout/tokens_per_s", "eval/cached"))
        }
        for step in run.metrics()
    ]


def tracked_steps(run: RunFolder) -> list[int]:
    """Steps that TensorBoard was given, over all lives of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "trackers/tensorboard/rft"))
    events.Reload()
    return [event.step for event in events.Scalars("loss")]


# --- what a finished run leaves behind ----------------------------------------------------------------


def test_stdout_is_one_line_of_json(finished):
    lines = finished.process.stdout.splitlines()
    assert len(lines) == 1
    summary = json.loads(lines[0])
    assert sorted(summary) == sorted(
        [
            "run",
            "steps",
            "heldout_before",
            "heldout_after",
            "heldout_interval",
            "seconds",
            "peak_rss_gb",
            "best",
        ]
    )
    assert Path(summary["best"]).parts[-3:-1] == (finished.run.id, "checkpoints")
    assert summary["steps"] == 3
    assert Path(summary["run"]).name == finished.run.id
    assert 0 <= summary["heldout_before"] <= 1 and 0 <= summary["heldout_after"] <= 1
    low, high = summary["heldout_interval"]
    assert low <= summary["heldout_after"] - summary["heldout_before"] <= high


def test_engine_and_trainer_agree_at_every_step(finished):
    steps = finished.run.metrics()
    assert [step["step"] for step in steps] == [1, 2, 3]
    for step in steps:
        assert step["mismatch/mean_abs"] < 1e-5 and step["mismatch/max_abs"] < 1e-4
        assert step["update/steps"] == 1 and step["grad_norm"] > 0 and step["groups/used"] == 2
        assert step["weight_version"] == step["step"]
        assert step["eval/ok"] == 8 and step["eval/failed"] == 0
        assert {"heldout/mean", "heldout/low", "heldout/high"} <= step.keys()


def test_the_table_explains_every_number_that_is_written(finished):
    written = {key for step in finished.run.metrics() for key in step}
    assert {key for key in written if find_metric(key) is None} == {"step"}


def test_rollouts_are_kept_with_tokens_scores_and_weight_versions(finished):
    import pyarrow.parquet

    for step in (1, 2, 3):
        rows = pyarrow.parquet.read_table(
            finished.run.path / "rollouts" / f"step-{step:06d}.parquet"
        ).to_pylist()
        assert len(rows) == 8
        assert {row["weight_version"] for row in rows} == {step - 1}
    heldout = sorted(path.name for path in (finished.run.path / "rollouts").glob("heldout-*"))
    assert heldout == [f"heldout-{step:06d}.parquet" for step in range(4)]


def test_checkpoints_load_in_transformers_and_differ(finished):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = []
    for step in (1, 2, 3):
        folder = finished.run.checkpoints_path / f"step-{step:06d}"
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert AutoTokenizer.from_pretrained(folder).chat_template
        weights.append(model.model.embed_tokens.weight.detach())
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_the_run_says_how_it_ended_and_keeps_its_recipe(finished):
    status = finished.run.status
    assert (status.state, status.step, status.steps) == ("finished", 3, 3)
    assert load_recipe(finished.run.recipe_path).seed == 3
    assert finished.run.report_path.is_file()
    assert "vllm" in finished.run.log_path.read_text().lower()  # its chatter went to the log ...
    assert "vllm" not in finished.process.stderr.lower()  # ... and not to the terminal


# --- again, interrupted, continued ---------------------------------------------------------------------


def test_the_same_recipe_and_seed_give_the_same_metrics(finished, recipe):
    summary = train(recipe)
    assert numbers(RunFolder.open(summary.run)) == numbers(finished.run)


def test_ctrl_c_finishes_the_step_and_going_on_ends_where_an_uninterrupted_run_does(finished, recipe, capfd):
    words = ["train", str(recipe), "evaluator=./grader.py:interrupting", "tracking=tensorboard", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["steps"] == 2
    run = RunFolder.open("tiny")
    assert f"stopped after step 2 of 3; go on with: rft train --resume {run.path}" in " ".join(err.split())
    assert (run.status.state, run.status.step) == ("stopped", 2)
    assert (run.checkpoints_path / "step-000002").is_dir()

    summary = train(recipe, resume=run)
    assert summary.steps == 3
    assert run.status.state == "finished"
    assert [step["step"] for step in run.metrics()] == tracked_steps(run) == [1, 2, 3]
    for mine, theirs in zip(numbers(run), numbers(finished.run), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_an_evaluator_that_breaks_stops_the_run_after_a_checkpoint(recipe):
    with pytest.raises(RunStopped) as stopped:
        train(recipe, "evaluator=./grader.py:breaking", "train.checkpoint.every=0", "train.steps=9")
    said = str(stopped.value)
    assert "KeyError: 'fee' (grader.py:" in said and "step 2 is saved" in said and "--resume" in said
    assert stopped.value.exit_code == 1
    run = RunFolder.open("tiny")
    assert [path.name for path in run.checkpoints_path.iterdir()] == ["step-000002"]
    assert (run.status.state, run.status.step) == ("stopped", 2)
    assert run.metrics()[-1]["fail/bug"] == 8


def test_an_evaluator_that_drifts_under_the_run_stops_it_after_a_checkpoint(recipe):
    with pytest.raises(RunStopped) as stopped:
        train(recipe, "evaluator=./grader.py:drifting", "train.steps=9", "scoring.canaries_every=1")
    assert "the evaluator has drifted: 1 of 1 golden cases did not hold" in str(stopped.value)
    run = RunFolder.open("tiny")
    assert (run.status.state, run.status.step) == ("stopped", 3)
    assert [step["golden/held"] for step in run.metrics()] == [1.0, 0.0, 0.0]
    told = [event for event in run.events() if event["kind"] == "golden_cases"]
    assert [(event["step"], len(event["drifted"])) for event in told] == [(2, 1), (3, 1)]
    assert (run.checkpoints_path / "step-000003").is_dir()


def test_a_bad_step_moves_nothing_is_kept_and_stops_the_run_when_another_follows(recipe, monkeypatch):
    import torch
    from safetensors.torch import load_file

    from rft.bad_steps import load_failed
    from rft.learn import credit

    asked: list[int] = []
    assign_credit = credit.assign_credit

    def sometimes_not_a_number(batch, *rest):
        batch = assign_credit(batch, *rest)
        asked.append(len(asked) + 1)
        if asked[-1] in (2, 4, 5):
            batch.advantages_N[0] = float("nan")
        return batch

    monkeypatch.setattr(credit, "assign_credit", sometimes_not_a_number)
    with pytest.raises(RunStopped, match="2 updates in a row had a loss or gradient that was not finite"):
        train(recipe, "train.steps=9", "train.max_bad_steps=2", "train.checkpoint.keep=9", "eval.every=0")
    run = RunFolder.open("tiny")
    assert (run.status.state, run.status.step) == ("stopped", 5)
    assert [step["update/skipped"] for step in run.metrics()] == [0, 1, 0, 1, 1]
    weights = [load_file(folder / "model.safetensors") for folder in sorted(run.checkpoints_path.iterdir())]
    unmoved = [
        all(torch.equal(old[name], new[name]) for name in old) for old, new in itertools.pairwise(weights)
    ]
    assert unmoved == [True, False, True, True]
    assert all(step["mismatch/mean_abs"] < 1e-5 for step in run.metrics())
    kept = [load_failed(path) for path in sorted((run.path / "failed").iterdir())]
    assert [failed.step for failed in kept] == [2, 4, 5]
    assert all("advantages_N" in fields for failed in kept for fields in failed.suspects.values())


def test_a_run_that_its_evaluator_makes_too_dear_is_refused_before_it_begins(recipe):
    with pytest.raises(UserError, match=r"40 evaluations at 0\.1000 USD .* over the 1 allowed"):
        train(recipe, "evaluator=./grader.py:dear")
    assert list_runs() == [], "nothing was done, so there is nothing to go on with"


@pytest.mark.parametrize("falls_back", [True, False])
def test_a_bond_that_breaks_while_training_costs_no_step(recipe, monkeypatch, falls_back):
    from rft.engine.views import BindingError
    from rft.engine.weights import Weights

    honest = Weights.check
    broken = iter(
        [BindingError("the engine drifted"), None if falls_back else BindingError("copies drift too")]
    )

    def check(self: Weights) -> Any:
        # the proof at the start looks at version 0; what breaks, breaks after the first step
        error = next(broken, None) if self.engine.version > 0 else None
        if error is not None:
            raise error
        return honest(self)

    monkeypatch.setattr(Weights, "check", check)
    words = ["engine.parity_every=1", "train.steps=2"]
    if falls_back:
        run = RunFolder.open(train(recipe, *words).run)
        assert all(step["mismatch/max_abs"] < 1e-4 for step in run.metrics())
        assert len(run.metrics()) == 2
    else:
        with pytest.raises(RunStopped, match="copies drift too; step 1 is saved, go on with"):
            train(recipe, *words)
        run = RunFolder.open("tiny")
        assert [path.name for path in run.checkpoints_path.iterdir()] == ["step-000001"]


def test_an_adapter_trains_saves_and_goes_on(recipe, tiny_model_dir):
    summary = train(recipe, "model.adapter.rank=4", "train.steps=1", "train.learning_rate=0.01")
    run = RunFolder.open(summary.run)
    step = run.metrics()[0]
    assert step["mismatch/mean_abs"] < 1e-5 and step["mismatch/max_abs"] < 1e-4
    folder = run.checkpoints_path / "step-000001"
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()

    summary = train(recipe, "train.steps=2", resume=run)
    assert summary.steps == 2
    step = run.metrics()[1]
    assert step["grad_norm"] > 0 and step["mismatch/max_abs"] < 1e-4


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_several_passes_in_bfloat16_with_a_reference(recipe, beta):
    if beta:
        words = ["algorithm.beta=0.1", "algorithm.num_iterations=2", "model.dtype=bfloat16"]
    else:
        words = ["algorithm.minibatches=2", "engine.dtype=bfloat16"]
    summary = train(recipe, "train.steps=1", *words)
    step = RunFolder.open(summary.run).metrics()[0]
    assert step["update/steps"] == 2
    assert step["mismatch/mean_abs"] < 0.15
    assert ("kl/reference" in step) == bool(beta)


DIALOGUE = """\
from rft import Environment, Message, Observation, Step


class Asks(Environment):
    async def reset(self, task, *, seed):
        self.turns = 0
        return Observation(task.prompt)

    async def step(self, action):
        self.turns += 1
        heard = Message("user", f"You said {action.content}.")
        return Step((heard,), done=self.turns == 3, reward=len(action.content) / 40)
"""


def test_a_conversation_of_several_turns_is_trained_on_exactly_as_it_was_sampled(recipe):
    import pyarrow.parquet

    Path("asks.py").write_text(DIALOGUE)
    summary = train(
        recipe,
        "environment=./asks.py:Asks",
        "evaluator=env_reward",
        "train.steps=2",
        "rollout.max_new_tokens=40",
        f"rollout.stop={json.dumps(list('aeioukqxyz[]()'))}",  # the tiny model seldom ends by itself
        "eval.every=0",
    )
    run = RunFolder.open(summary.run)
    for step in run.metrics():
        assert step["mismatch/mean_abs"] < 1e-5 and step["mismatch/max_abs"] < 1e-4
        assert step["rollout/truncated_frac"] < 1
    rows = pyarrow.parquet.read_table(run.path / "rollouts" / "step-000001.parquet").to_pylist()
    spoken = [sum(message["role"] == "assistant" for message in json.loads(row["messages"])) for row in rows]
    assert max(spoken) == 3


# --- what a user gets wrong -----------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["train", *words])
    err = capfd.readouterr().err
    assert ended.value.code == 2, err
    (said,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "Traceback" not in err
    return said


def test_a_port_in_use(recipe, taken, capfd):
    assert str(taken) in refused(capfd, str(recipe), "--serve", f":{taken}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.train=gone.jsonl", "gone.jsonl"),
        ("evaluator=no_such_evaluator", "no_such_evaluator"),
        ("evaluator=./grader.py:no_such_one", "no_such_one"),
        ("rollout.max_total_tokens=20", "none of .* prompts fits into 8 tokens"),
        ("model.source=./gone", "gone"),
        ("rollout.sampling={no_such_parameter: 1}", "no_such_parameter"),
        ("engine.args={no_such_argument: 1}", "no_such_argument"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(recipe, capfd, override, said):
    import re

    assert re.search(said, refused(capfd, str(recipe), override))
