import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer.main

from rft.cli import app, main
from rft.errors import EngineError, RunStopped
from rft.recipe.load import dump_recipe, load_recipe
from rft.runs.folder import RunFolder
from rft.runs.summary import Summary
from rft.stats import Estimate

RFT = Path(sys.executable).parent / "rft"
RECIPE = """\
name: sort
model: {source: packaged:smollm2-135m-instruct}
data: {train: tasks.jsonl}
evaluator: ./grader.py:exact
train: {steps: 7}
"""
GRADER = """\
from rft import evaluator
print("imported the grader")

@evaluator
def exact(text, reference):
    return text.strip() == reference
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    (tmp_path / "sort.yaml").write_text(RECIPE)
    (tmp_path / "grader.py").write_text(GRADER)
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "Sort: 2 1", "reference": "1 2"}\n' * 20)
    monkeypatch.chdir(tmp_path)
    return "sort.yaml"


@pytest.fixture
def training(monkeypatch):
    """Replaces the training page; holds what it was called with and what it does."""
    called = types.SimpleNamespace(recipe=None, options=None, does=lambda: None)

    def train(recipe, **options):
        called.recipe, called.options = recipe, options
        called.does()
        return Summary(
            "runs/sort/x",
            7,
            12.0,
            1.5,
            Estimate(0.1, 0, 0.2),
            Estimate(0.5, 0.4, 0.6),
            Estimate(0.4, 0.3, 0.5),
        )

    monkeypatch.setitem(sys.modules, "rft.stages", types.SimpleNamespace(run_recipe=train))
    return called


def rft(*words):
    """Runs the command in this process and gives its exit code."""
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


def command(*words, **options):
    return subprocess.run([RFT, *words], capture_output=True, text=True, **options)


def all_commands():
    def walk(node, path):
        yield path
        for name, child in getattr(node, "commands", {}).items():
            yield from walk(child, (*path, name))

    return list(walk(typer.main.get_command(app), ()))


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_every_help_ends_with_an_example_of_that_command(path, capsys):
    assert rft(*path, "--help") == 0
    last = capsys.readouterr().out.strip().splitlines()[-1].strip()
    assert last.startswith(" ".join(["Example: rft", *path]))


def test_version(capsys):
    assert rft("--version") == 0
    assert capsys.readouterr().out == "rft 0.1.0\n"


def test_help_and_recipe_commands_load_no_torch(recipe):
    code = (
        "import sys; from rft.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'transformers', 'vllm', 'pyarrow'} & set(sys.modules)"
    )
    for words in (["--help"], ["recipe", "keys"], ["recipe", "check", recipe], ["runs", "list"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# ---- errors


def test_a_mistake_is_one_line_and_exit_code_2_with_the_traceback_only_under_debug():
    done = command("runs", "show", "nothing", "--output-dir", "/nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: no run 'nothing': /nowhere/ holds no runs; `rft train RECIPE` makes one\n"
    for words in (["--debug", "runs", "show", "nothing"], ["runs", "show", "nothing", "--debug"]):
        done = command(*words, cwd="/")
        assert done.returncode == 2
        assert "Traceback" in done.stderr


def test_all_mistakes_of_a_recipe_come_out_together(recipe, tmp_path):
    (tmp_path / "sort.yaml").write_text(RECIPE.replace("steps: 7", "stpes: 7") + "sed: 1\n")
    done = command("train", recipe)
    assert done.returncode == 2
    assert "2 mistakes" in done.stderr
    assert "stpes" in done.stderr and "sed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_recipe_is_a_users_error():
    done = command("train", "no-such.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no-such.yaml")


def test_a_run_that_stopped_itself_explains_and_exits_with_1(recipe, training, capsys):
    def stop():
        raise RunStopped("12 % of evaluations failed\n  timeout: 60 times")

    training.does = stop
    assert rft("train", recipe) == 1
    assert capsys.readouterr().err == "error: 12 % of evaluations failed\n  timeout: 60 times\n"


def test_an_unexpected_error_is_one_line_that_names_the_log_and_debug(recipe, training, capsys):
    def fail():
        error = ZeroDivisionError("division\nby zero")
        error.add_note("log: runs/sort/x/logs/engine.log")
        raise error

    training.does = fail
    assert rft("train", recipe) == 1
    assert capsys.readouterr().err == (
        "error: ZeroDivisionError: division by zero "
        "(log: runs/sort/x/logs/engine.log; --debug shows the traceback)\n"
    )
    assert rft("train", recipe, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_engine_that_broke_names_the_log_too(recipe, training, capsys):
    def fail():
        error = EngineError("the engine died")
        error.add_note("log: engine.log")
        raise error

    training.does = fail
    assert rft("train", recipe) == 1
    assert capsys.readouterr().err == "error: the engine died (log: engine.log)\n"


def test_without_the_training_stack_it_says_what_to_install(recipe, training, capsys):
    def fail():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    training.does = fail
    assert rft("train", recipe) == 2
    assert "pip install 'rft-loop[cpu]'" in capsys.readouterr().err


def test_ctrl_c_exits_with_130_and_no_traceback(recipe, training, capsys):
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    training.does = interrupt
    assert rft("train", recipe) == 130
    assert "Traceback" not in capsys.readouterr().err


# ---- train


def test_train_hands_over_the_recipe_with_its_overrides_and_shows_the_summary(recipe, training, capfd):
    assert rft("train", recipe, "train.steps=5", "--serve", ":8123") == 0
    assert training.recipe.train.steps == 5
    assert (training.recipe.serve.host, training.recipe.serve.port) == ("127.0.0.1", 8123)
    assert training.options["view"].total_steps == 5
    assert training.options["debug"] is False
    assert "+0.400 [0.300, 0.500]" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("8000", "127.0.0.1", 8000),
        ("[::1]:0", "::1", 0),
        (":9", "127.0.0.1", 9),
    ],
)
def test_an_address_to_serve_on(recipe, training, address, host, port):
    assert rft("train", recipe, "--serve", address) == 0
    assert (training.recipe.serve.host, training.recipe.serve.port) == (host, port)


@pytest.mark.parametrize("address", ["localhost", ":", ":http", ":70000"])
def test_an_address_without_a_port_is_refused(recipe, training, capsys, address):
    assert rft("train", recipe, "--serve", address) == 2
    assert "--serve takes [HOST]:PORT" in capsys.readouterr().err
    assert training.recipe is None


def test_without_serve_nothing_is_served(recipe, training):
    assert rft("train", recipe) == 0
    assert training.recipe.serve is None


def test_json_leaves_stdout_to_one_line_whatever_training_prints(recipe, training, capfd):
    def chatter():
        print("python chatter")
        os.write(1, b"C chatter\n")
        training.options["view"].note("a note")

    training.does = chatter
    assert rft("train", recipe, "--json") == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out) == {
        "run": "runs/sort/x",
        "steps": 7,
        "heldout_before": 0.1,
        "heldout_after": 0.5,
        "heldout_interval": [0.3, 0.5],
        "seconds": 12.0,
        "peak_rss_gb": 1.5,
        "best": None,
    }
    assert shown.out.count("\n") == 1
    for text in ("python chatter", "C chatter", "a note", "held-out after"):
        assert text in shown.err


# ---- resume


@pytest.fixture
def stopped(recipe):
    run = RunFolder.create("runs", "sort", dump_recipe(load_recipe(recipe)))
    (run.checkpoints_path / "step-000003").mkdir()
    run.set_status("stopped", step=3, steps=7)
    return run


def test_resume_goes_on_in_the_same_folder_with_the_recipe_of_the_run(stopped, training, recipe):
    Path(recipe).write_text("changed since")
    assert rft("train", "--resume", "sort", "train.steps=9", "--serve", ":0") == 0
    assert training.options["resume"].path == stopped.path
    assert (training.recipe.name, training.recipe.train.steps, training.recipe.serve.port) == ("sort", 9, 0)


def test_resuming_refuses_a_recipe_beside_the_runs_own(stopped, training, capsys):
    assert rft("train", "other.yaml", "--resume", "sort") == 2
    assert "override other.yaml" in capsys.readouterr().err


def test_a_fork_brings_the_recipe_of_its_run_unless_another_is_named(stopped, training, recipe, capsys):
    assert rft("train", "--fork", "sort@3", "train.steps=9") == 0
    origin = training.options["fork"]
    assert (Path(origin.run), origin.step) == (stopped.path.resolve(), 3) and training.options[
        "resume"
    ] is None
    assert (training.recipe.name, training.recipe.train.steps) == ("sort", 9)
    assert rft("train", recipe, "--fork", "sort@3", "seed=5") == 0
    assert training.recipe.seed == 5
    assert rft("train", "--fork", "sort@4") == 2
    assert "has no checkpoint of step 4 to fork; it has 3" in capsys.readouterr().err
    assert rft("train", "--fork", "sort", "--resume", "sort") == 2
    assert "take one of them" in capsys.readouterr().err


def test_a_fork_of_stages_is_one_of_the_newest_with_a_checkpoint_and_stands_beside_them(
    stopped, training, recipe
):
    for number, steps in ((1, 2), (2, 4), (3, 0)):
        words = [f"name={number}-grpo", f"train.output_dir={stopped.stages_path}"]
        stage = RunFolder.create(
            stopped.stages_path, f"{number}-grpo", dump_recipe(load_recipe(recipe, words))
        )
        if steps:
            (stage.checkpoints_path / f"step-{steps:06d}").mkdir()
    assert rft("train", "--fork", "sort@4", "train.steps=9") == 0
    origin = training.options["fork"]
    assert (Path(origin.run).parent, origin.step) == (stopped.stages_path.resolve() / "2-grpo", 4)
    assert (training.recipe.name, training.recipe.train.steps) == ("sort", 9)
    assert Path(training.recipe.train.output_dir) == stopped.path.resolve().parents[1]
    assert rft("train", "--fork", "sort@4", "train.steps=9", "name=other") == 0
    assert training.recipe.name == "other"


def test_train_without_a_recipe_says_where_to_find_one(capsys):
    assert rft("train") == 2
    assert "`rft recipe list`" in capsys.readouterr().err


def test_a_run_that_is_still_running_is_not_resumed(stopped, training, capsys):
    stopped.set_status("running", step=3, steps=7)
    assert rft("train", "--resume", "sort") == 2
    assert f"still running, as process {os.getpid()}" in capsys.readouterr().err
    assert training.recipe is None


def test_runs_show_says_how_to_go_on_with_a_stopped_run(stopped, capsys):
    assert rft("runs", "show", "sort") == 0
    assert f"rft train --resume {stopped.path}" in capsys.readouterr().out
    stopped.set_status("finished", step=7, steps=7)
    assert rft("runs", "show", "sort") == 0
    assert "--resume" not in capsys.readouterr().out


def test_runs_show_marks_the_best_checkpoint(stopped, capsys):
    for step, heldout in ((3, 0.25), (4, 0.5), (5, None)):
        trainer = stopped.checkpoints_path / f"step-{step:06d}" / "trainer"
        trainer.mkdir(parents=True)
        (trainer / "state.json").write_text(json.dumps({"heldout": heldout}))
    assert rft("runs", "show", "sort", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (Path(facts["best"]).name, facts["best_heldout"]) == ("step-000004", 0.5)
    assert rft("runs", "show", "sort") == 0
    assert "step-000004 (best: held-out 0.5)" in " ".join(capsys.readouterr().out.split())


# ---- eval


@pytest.fixture
def comparing(monkeypatch):
    """Replaces the comparison; `passed` is its verdict."""
    called = types.SimpleNamespace(passed=True, recipe=None)

    class Comparison:
        passed = property(lambda self: called.passed)

        def to_json(self, *, with_answers=False):
            return {"passed": self.passed, "answers": with_answers}

        def __rich__(self):
            return "the table"

    def evaluate(recipe, models, **options):
        called.recipe, called.models, called.options = recipe, models, options
        print("chatter")
        return Comparison()

    page = types.SimpleNamespace(evaluate=evaluate, Goals=lambda *values: values)
    monkeypatch.setitem(sys.modules, "rft.evaluate", page)
    return called


def test_eval_hands_over_models_and_questions(recipe, comparing, capfd):
    models = ["--model", "a", "--model", "b"]
    questions = ["--min-score", "0.5", "--no-worse-than", "first", "--margin", "0.1", "--k", "1", "--k", "4"]
    assert rft("eval", recipe, *models, "--samples", "4", "--temperature", "0.7", *questions) == 0
    assert (comparing.recipe.eval.samples, comparing.recipe.eval.temperature) == (4, 0.7)
    assert comparing.models == ["a", "b"]
    assert comparing.options["ks"] == [1, 4]
    assert comparing.options["goals"] == (0.5, "first", 0.1)
    assert "the table" in capfd.readouterr().out


def test_eval_prints_one_json_line_with_the_table_beside_it(recipe, comparing, capfd):
    assert rft("eval", recipe, "--json", "--out", "all.json") == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out) == {"passed": True, "answers": False}
    assert "the table" in shown.err and "chatter" in shown.err
    assert json.loads(Path("all.json").read_text()) == {"passed": True, "answers": True}


def test_a_comparison_that_does_not_pass_exits_with_1(recipe, comparing):
    comparing.passed = False
    assert rft("eval", recipe) == 1


def test_a_result_that_could_not_be_written_is_refused_before_anything_loads(recipe, comparing):
    assert rft("eval", recipe, "--out", "no/such/folder.json") == 2
    assert comparing.recipe is None


# ---- serve


@pytest.fixture
def serving(monkeypatch):
    called = types.SimpleNamespace(target=None)

    def serve(target, spec, engine, **options):
        called.target, called.spec, called.engine, called.options = target, spec, engine, options
        options["say"]("serving")

    monkeypatch.setitem(sys.modules, "rft.serve.run", types.SimpleNamespace(serve=serve))
    return called


def test_serve_takes_a_target_and_keys_of_two_sections(serving, capfd):
    assert rft("serve", "quickstart", "serve.port=0", "engine.args.seed=3", "--debug") == 0
    assert serving.target == "quickstart"
    assert (serving.spec.host, serving.spec.port) == ("127.0.0.1", 0)
    assert serving.engine.args == {"seed": 3}
    assert serving.options["debug"] is True
    assert capfd.readouterr().out == "serving\n"


def test_serve_tells_all_wrong_keys_at_once(serving, capsys):
    assert rft("serve", "quickstart", "serve.prt=1", "serve.host=3", "train.steps=5", "port") == 2
    error = capsys.readouterr().err
    for part in ("4 mistakes", "serve.port", "serve.host", "train", "override port"):
        assert part in error
    assert serving.target is None


# ---- init


def test_a_new_task_passes_the_check_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert rft("init", "my-task", "--json") == 0
    assert "my-task/recipe.yaml" in json.loads(capsys.readouterr().out)["files"]
    assert rft("recipe", "check", "my-task/recipe.yaml") == 0


def test_a_new_task_says_what_to_do_next_and_takes_its_folders_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert rft("init", "my-task") == 0
    assert "rft train my-task/recipe.yaml" in capsys.readouterr().out
    assert load_recipe("my-task/recipe.yaml").name == "my-task"
    assert rft("init", "my-task") == 2


# ---- recipe


def test_recipe_check_of_a_good_recipe_keeps_the_users_prints_out_of_its_answer(recipe):
    done = command("recipe", "check", recipe)
    assert done.returncode == 0
    assert done.stdout.startswith("sort.yaml: no mistakes found")
    done = command("recipe", "check", recipe, "--json")
    assert json.loads(done.stdout)["ok"] is True
    assert "imported the grader" in done.stderr


def test_recipe_check_tells_all_mistakes_on_stderr_and_as_json(recipe):
    done = command("recipe", "check", recipe, "train.stpes=5", "evaluator=./grader.py:exat", "--json")
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert len(report["problems"]) == 2
    assert "2 mistakes" in done.stderr


def test_recipe_show_prints_a_recipe_that_can_be_used_again(recipe, tmp_path, capsys):
    assert rft("recipe", "show", recipe, "train.steps=5") == 0
    whole = capsys.readouterr().out
    (tmp_path / "whole.yaml").write_text(whole)
    assert rft("recipe", "show", "whole.yaml") == 0
    assert capsys.readouterr().out == whole
    assert rft("recipe", "show", recipe, "--json") == 0
    assert json.loads(capsys.readouterr().out)["train"]["steps"] == 7


def test_recipe_keys_lists_a_section_and_knows_the_nearest_of_a_wrong_one(capsys):
    assert rft("recipe", "keys", "rollout", "--json") == 0
    keys = json.loads(capsys.readouterr().out)["keys"]
    assert "rollout.group_size" in [key["path"] for key in keys]
    assert rft("recipe", "keys", "rollot") == 2
    assert "did you mean 'rollout'?" in capsys.readouterr().err


def test_presets_and_recipes_are_listed(capsys):
    assert rft("recipe", "presets") == 0
    assert "quick" in capsys.readouterr().out
    assert rft("recipe", "list", "--json") == 0
    assert isinstance(json.loads(capsys.readouterr().out)["recipes"], list)


# ---- runs


@pytest.fixture
def finished(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "runs", "sort", "name: sort\n")
    run.record(0, {"heldout/mean": 0.06})
    run.record(1, {"reward/mean": 0.1, "fail/timeout": 2, "entropy": 0.001, "my/own": 3.0})
    run.record(2, {"reward/mean": 0.4, "fail/timeout": 1, "entropy": float("nan"), "heldout/mean": 0.3})
    run.set_status("finished", step=2, steps=2)
    monkeypatch.chdir(tmp_path)
    return run


def test_runs_list_names_state_and_last_numbers(finished, capsys):
    assert rft("runs", "list", "--json") == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["name"], run["id"], run["state"]) == ("sort", finished.id, "finished")
    assert (run["step"], run["steps"], run["reward"], run["heldout"]) == (2, 2, 0.4, 0.3)
    assert run["failures"] == {"timeout": 3}
    assert rft("runs", "list") == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line == ["sort", finished.id, "finished", "2/2", "0.4", "0.3"]


def test_runs_list_of_nothing_says_how_to_make_a_run(tmp_path, capsys):
    assert rft("runs", "list", "--output-dir", str(tmp_path / "none")) == 0
    assert "`rft train RECIPE` makes one" in capsys.readouterr().out


def test_one_damaged_run_does_not_hide_the_others(finished, capsys):
    (finished.path / "status.json").write_text("{")
    (finished.path / "metrics.jsonl").write_text("garbage\n")
    other = RunFolder.create("runs", "sum", "")
    assert rft("runs", "list", "--json") == 0
    damaged, fine = json.loads(capsys.readouterr().out)["runs"]
    assert damaged["state"] == "unknown"
    assert "cannot be read" in damaged["message"]
    assert fine["id"] == other.id


def test_runs_show_tells_the_course_and_the_files(finished, capsys):
    assert rft("runs", "show", "sort") == 0
    text = capsys.readouterr().out
    for part in ("finished", "2 of 2", "0.100 to 0.400", "0.060 to 0.300", "timeout=3", "recipe.yaml"):
        assert part in text


def test_runs_metrics_puts_values_beside_their_meaning_and_flags_what_is_out_of_range(finished, capsys):
    assert rft("runs", "metrics", "sort", "--json") == 0
    found = {metric["key"]: metric for metric in json.loads(capsys.readouterr().out)["metrics"]}
    assert (found["reward/mean"]["values"], found["reward/mean"]["last"]) == ([0.1, 0.4], 0.4)
    assert found["reward/mean"]["healthy"] is None
    assert found["entropy"]["healthy"] is False
    assert found["fail/timeout"]["meaning"].startswith("failed evaluations")
    assert found["my/own"]["last"] == 3.0
    assert rft("runs", "metrics", "sort") == 0
    assert "raise rollout.temperature" in capsys.readouterr().out


def test_runs_metrics_without_a_run_explains_them_all(capsys):
    assert rft("runs", "metrics") == 0
    text = capsys.readouterr().out
    assert "reward/part/<name>" in text
    assert "parity/max" in text


def test_consent_to_another_evaluator_reaches_training(recipe, training):
    rft("train", recipe)
    assert training.options["accept_evaluator_change"] is False
    rft("train", recipe, "--accept-evaluator-change")
    assert training.options["accept_evaluator_change"] is True
