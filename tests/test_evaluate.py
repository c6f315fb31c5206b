"""`rft eval`: which models answer what, what their scores say, and what decides the exit code."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import rft.contestant
import rft.evaluate
from rft.cli import main
from rft.engine.scripted import ScriptedEngine
from rft.errors import ServeError, UserError
from rft.evaluate import Goals, evaluate
from rft.recipe.load import load_recipe
from rft.runs.comparison import Answers, no_worse, paired, reaches
from rft.runs.view import View
from rft.stats import Estimate
from rft.types import Group, Rollout, Score, Task

GRADER = """\
from rft import EvaluatorError, evaluator

@evaluator
def exact(text, reference):
    if text == "down":
        raise EvaluatorError("server", "HTTP 503")
    return float(text == reference)
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch, tiny_model_dir):
    """Eight held-out tasks, `0+1` to `7+1`, whose right answer is one more than the number."""
    rows = [{"prompt": f"{n}+1", "reference": str(n + 1), "id": str(n)} for n in range(8)]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "train.jsonl").write_text('{"prompt": "9+1", "reference": "10"}\n' * 2)
    (tmp_path / "grader.py").write_text(GRADER)
    (tmp_path / "plus.yaml").write_text(
        f"model: {tiny_model_dir}\nevaluator: ./grader.py:exact\n"
        "data: {train: train.jsonl, eval: eval.jsonl}\nrollout: {max_new_tokens: 16}\neval: {tasks: 8}\n"
    )
    monkeypatch.chdir(tmp_path)
    return "plus.yaml"


@pytest.fixture
def engines(monkeypatch, tiny_tokenizer, tiny_model_dir):
    """Local models are folders `knows-N`, which answer the first N tasks rightly. Yields what was opened."""
    opened: list[str] = []

    def open_target(target, spec, **options):
        known = int(target.name.partition("-")[2])
        opened.append(target.name)

        def answer(prompt, sampling):
            asked = int(prompt[prompt.index("+1") - 1])
            return str(asked + 1) if asked < known else "no idea"

        engine = ScriptedEngine(tiny_tokenizer, answer)
        monkeypatch.setattr(engine, "close", lambda: opened.append("closed"))
        return engine

    monkeypatch.setattr(rft.contestant, "open_target", open_target)
    for known in (0, 2, 5, 8):
        Path(f"knows-{known}").symlink_to(tiny_model_dir)
    return opened


class Chat(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose model `plus` is always right but for the task 3+1."""

    def do_GET(self):
        self.reply(200, {"data": [{"id": "plus"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = int(body["messages"][-1]["content"][0])
        if asked == 3:
            self.reply(400, {"error": "no"})
            return
        choice = {"message": {"role": "assistant", "content": str(asked + 1)}, "finish_reason": "stop"}
        self.reply(200, {"choices": [choice], "usage": {"completion_tokens": 4}})

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1#plus"
    server.shutdown()
    server.server_close()


def run(recipe: str, *models: str, overrides: tuple[str, ...] = (), **options: Any):
    return evaluate(load_recipe(recipe, overrides), models, view=View(1, quiet=True), **options)


# ---- models


def test_models_answer_the_same_tasks_one_after_another_and_are_compared_task_by_task(recipe, engines):
    found = run(recipe, "knows-2", "knows-5")
    assert engines == ["knows-2", "closed", "knows-5", "closed"]
    first, second = found.results
    assert (first.estimate.mean, second.estimate.mean) == (2 / 8, 5 / 8)
    assert first.means.keys() == second.means.keys() == {str(n) for n in range(8)}
    assert [r.seed for g in first.groups for r in g.rollouts] == [
        r.seed for g in second.groups for r in g.rollouts
    ]
    assert found.reference == "knows-2"
    assert found.difference(second).mean == 3 / 8
    assert found.difference(first) is None
    assert found.passed
    # no idea and the closing token; a digit and the closing token
    assert first.mean_length == (2 * 2 + 6 * 8) / 8


def test_without_a_model_the_recipes_own_answers(recipe, engines, monkeypatch):
    monkeypatch.setattr(
        rft.contestant, "open_target", lambda target, spec, **options: pytest.fail(str(target))
    )
    with pytest.raises(pytest.fail.Exception, match="model_dir=.*tiny"):
        run(recipe)


def test_an_endpoint_stands_beside_a_local_model_and_its_failures_are_no_zeros(recipe, engines, address):
    found = run(recipe, "knows-5", address)
    local, remote = found.results
    assert remote.estimate.mean == 1.0
    assert remote.failures == {"bad_response": 1}
    assert remote.mean_length == 4
    assert remote.version is None
    assert "3" not in remote.means
    # Paired over the seven tasks that both have: 4 of them right locally.
    assert found.difference(remote).mean == pytest.approx(3 / 7)
    assert found.to_json()["models"][1]["scores"]["3"] == [None]
    assert found.to_json(with_answers=True)["models"][1]["answers"][3]["reasons"] == [
        'failed (bad_response: endpoint: HTTP 400: {"error": "no"})'
    ]


def test_an_endpoint_that_is_not_there_is_a_users_error(recipe):
    with pytest.raises(ServeError, match="does not answer"):
        run(recipe, "http://127.0.0.1:9/v1#plus")


def test_the_engine_is_closed_when_an_evaluation_ends_early(recipe, engines, monkeypatch):
    async def collect(*args, **options):
        raise RuntimeError("broken")

    monkeypatch.setattr(rft.evaluate, "collect", collect)
    with pytest.raises(RuntimeError) as raised:
        run(recipe, "knows-2")
    assert engines == ["knows-2", "closed"]
    (note,) = raised.value.__notes__
    assert "broken" in Path(note.removeprefix("log: ")).read_text()


# ---- what is asked


def test_samples_give_pass_at_k_over_tasks(recipe, engines):
    found = run(recipe, "knows-2", overrides=("eval.samples=4", "eval.temperature=1.0"))
    assert list(found.ks) == [1, 4]
    assert found.to_json()["models"][0]["pass_at"] == {"1": 0.25, "4": 0.25}
    assert len(found.results[0].groups[0].rollouts) == 4


def test_wrong_wishes_are_refused_before_anything_is_loaded(recipe, engines):
    with pytest.raises(UserError, match="pass@4 needs --samples 4"):
        run(recipe, "knows-2", ks=[4])
    with pytest.raises(UserError, match="given twice"):
        run(recipe, "knows-2", "knows-2")
    with pytest.raises(UserError, match="needs a second model"):
        run(recipe, "knows-2", goals=Goals(no_worse_than="first"))
    with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
        run(recipe, "knows-2", api_key_env="NO_SUCH_KEY")
    assert engines == []


def test_tasks_that_training_saw_are_not_taken_for_held_out(recipe, engines):
    own = ("data.eval=null", "data.train=eval.jsonl", "eval.tasks=1")
    assert len(run(recipe, "knows-8", overrides=own).results[0].groups) == 1
    with pytest.raises(UserError, match="--tasks 3 is more than the 1 tasks that training sets aside"):
        run(recipe, "knows-8", overrides=own, tasks=3)


def test_prompts_too_long_for_a_model_are_counted(recipe, engines):
    with Path("eval.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "8+1" + " " * 3000, "reference": "9", "id": "8"}) + "\n")
    found = run(recipe, "knows-8", overrides=("eval.tasks=9",))
    assert found.results[0].left_out == 1
    assert len(found.results[0].groups) == 8


# ---- verdicts


def answers(model: str, *scores: float | None) -> Answers:
    """One task for each score; None failed."""
    tasks = [Task(str(n), "?") for n in range(len(scores))]
    groups = [
        Group(
            t.id,
            t,
            [Rollout(t.id, t.id, t, t.messages)],
            [Score.failed("server", "503") if s is None else Score(s)],
        )
        for t, s in zip(tasks, scores, strict=True)
    ]
    return Answers(model, "folder", 0, groups, lengths=())


def test_a_failed_evaluation_is_neither_in_the_mean_nor_in_a_pair():
    some, other = answers("a", 1.0, None, 0.0, 0.5), answers("b", 0.5, 1.0, None, 0.5)
    assert some.estimate.mean == 0.5
    assert paired(some, other).mean == 0.25  # tasks 0 and 3: +0.5 and 0
    assert paired(some, answers("c", None)) is None


@pytest.mark.parametrize(
    ("scores", "passed"), [((0.5, 0.5), True), ((0.5, 0.4), False), ((None, None), False)]
)
def test_min_score_is_a_question_of_the_mean(scores, passed):
    assert reaches(answers("a", *scores), 0.5).passed is passed


@pytest.mark.parametrize(
    ("low", "mean", "high", "margin", "passed", "said"),
    [
        (-0.01, 0.1, 0.21, 0.02, True, "no worse than"),
        (0.0, 0.0, 0.0, 0.0, True, "no worse than"),
        (-0.03, 0.1, 0.23, 0.02, False, "not enough data to tell"),
        (-0.2, -0.01, 0.18, 0.02, False, "not enough data to tell"),
        (-math.inf, 0.5, math.inf, 0.02, False, "not enough data to tell"),
        (-0.5, -0.3, -0.1, 0.02, False, "worse than base"),
    ],
)
def test_no_worse_is_a_question_of_the_intervals_lower_end(low, mean, high, margin, passed, said):
    verdict = no_worse("tuned", "base", Estimate(mean, low, high), margin)
    assert verdict.passed is passed
    assert verdict.reason.startswith(said)


def test_every_other_model_is_held_against_the_baseline_which_need_not_be_listed(recipe, engines):
    found = run(recipe, "knows-8", "knows-0", goals=Goals(no_worse_than="knows-2", margin=0.1))
    assert [a.model for a in found.results] == ["knows-2", "knows-8", "knows-0"]
    assert [(v.model, v.passed) for v in found.verdicts] == [("knows-8", True), ("knows-0", False)]
    assert not found.passed


def test_a_mean_over_what_is_left_of_a_broken_evaluator_does_not_pass(
    recipe, engines, monkeypatch, tiny_tokenizer
):
    down = ScriptedEngine(tiny_tokenizer, lambda prompt, sampling: "down")
    monkeypatch.setattr(rft.contestant, "open_target", lambda target, spec, **options: down)
    found = run(recipe, "knows-8", overrides=("train.max_failure_rate=0.05",))
    assert not found.passed
    assert "8 of the last 8 evaluations failed" in str(found.verdicts[0])
    assert found.results[0].estimate is None


# ---- the command


def rft_eval(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["eval", *words])
    return int(left.value.code or 0)


def test_the_exit_code_follows_the_verdicts(recipe, engines, capfd):
    assert rft_eval(recipe, "--model", "knows-5", "--min-score", "0.6") == 0
    assert "yes  knows-5: mean 0.625" in capfd.readouterr().out
    assert rft_eval(recipe, "--model", "knows-5", "--min-score", "0.7") == 1
    assert "no   knows-5: mean 0.625" in capfd.readouterr().out
    assert rft_eval(recipe, "--model", "knows-2", "--model", "knows-8", "--no-worse-than", "first") == 0
    assert rft_eval(recipe, "--model", "knows-8", "--model", "knows-2", "--no-worse-than", "first") == 1
    capfd.readouterr()
    assert rft_eval(recipe, "--model", "nowhere/to/be/found") == 2
    error = capfd.readouterr().err
    assert error.startswith("error: nowhere/to/be/found is neither a run")
    assert "log:" not in error


def test_json_is_one_line_on_stdout_and_out_holds_the_answers_too(recipe, engines, capfd):
    assert rft_eval(recipe, "--model", "knows-5", "--json", "--out", "found.json", "--tasks", "4") == 0
    shown = capfd.readouterr()
    line = json.loads(shown.out)
    assert line["models"][0]["tasks"] == 4
    assert line["passed"] is True
    assert "held-out reward" in shown.err
    whole = json.loads(Path("found.json").read_text())
    texts = whole["models"][0].pop("answers")
    assert {answer["texts"][0] for answer in texts} <= {"no idea", *"12345"}
    assert whole == line


def test_out_is_looked_at_before_the_models_run(recipe, engines):
    assert rft_eval(recipe, "--model", "knows-5", "--out", "nowhere/found.json") == 2
    assert engines == []


def test_the_table_names_every_figure(recipe, engines):
    found = run(recipe, "knows-2", "knows-5")
    console = Console(
        width=160, record=True, file=SimpleNamespace(write=lambda text: None, flush=lambda: None)
    )
    console.print(found)
    header, first, second = console.export_text().splitlines()
    columns = "model mean, 95 % tasks failed skipped truncated tokens pass@1 against knows-2, paired"
    assert " ".join(header.split()) == columns
    assert first.split()[:1] == ["knows-2"]
    assert "0.250" in first and "+0.375" in second
