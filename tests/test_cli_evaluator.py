"""`rft evaluator`: what is printed, what is kept, and exit codes: 0 passed, 1 failed, 2 a user's error."""

from __future__ import annotations

import json

import pytest

from rft.cli import main

GRADERS = """
from rft import Case, Score, evaluator

CASES = [Case("2+2?", str(n), reference="4", expect=float(n == 4)) for n in range(10)]

@evaluator(cases=CASES)
def right(text, reference, strict=False):
    return Score(float(text.replace("\\u00a0", " ").strip() == reference), reason="compared")

@evaluator
def leaks(text, reference):
    return Score(float(reference in text), reason="searched")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RFT_CHECKS", str(tmp_path / "checks"))
    (tmp_path / "graders.py").write_text(GRADERS)
    rows = [{"prompt": f"Name a word. (It is word{n}x.)", "reference": f"word{n}x"} for n in range(8)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(
        "model: packaged:tiny\ndata: {train: tasks.jsonl}\nevaluator: ./graders.py:right\n"
    )
    return tmp_path


def rft(*words):
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


def test_a_check_that_passes_is_shown_and_kept_by_fingerprint(folder, capsys):
    assert rft("evaluator", "check", "./graders.py:right", "--out", "report") == 0
    out = capsys.readouterr().out
    assert "right: pass  fingerprint" in out and "golden" in out
    report = json.loads((folder / "report" / "report.json").read_text())
    assert report["outcome"] == "pass" and report["complete"]
    assert (folder / "checks" / f"{report['fingerprint']}.json").is_file()
    assert "# Check of right: pass" in (folder / "report" / "report.md").read_text()


def test_a_check_that_fails_says_what_to_do_and_exits_with_1(capsys):
    assert rft("evaluator", "check", "mine.yaml", "evaluator=./graders.py:leaks") == 1
    out = capsys.readouterr().out
    assert "adversarial fail  prompt_echo scores 1" in out
    assert "What to do: repeating the question pays" in out


@pytest.mark.parametrize(
    ("how", "told"), [("algorithm=sft", "learns by sft"), ("stages=[grpo]", "several stages")]
)
def test_controls_are_for_training_that_the_evaluator_decides(folder, capsys, how, told):
    row = {"prompt": "Say a word.", "completion": "word", "reference": "word"}
    (folder / "tasks.jsonl").write_text(json.dumps(row) + "\n")
    assert rft("evaluator", "check", "mine.yaml", how, "--controls", "2") == 2
    said = capsys.readouterr().err
    assert told in said and "leave --controls out" in said


def test_a_recipes_tasks_and_options_of_an_evaluator_are_taken_along(capsys):
    assert rft("evaluator", "check", "mine.yaml", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dataset"] is not None and report["policy"] is None
    assert rft("evaluator", "check", "./graders.py:right", "strict=true", "--json") == 0
    assert json.loads(capsys.readouterr().out)["config"] == {"strict": True}
    assert rft("evaluator", "check", "./graders.py:leaks", "--tasks", "tasks.jsonl", "--json") == 1


def test_a_check_of_some_stages_is_not_kept(folder, capsys):
    assert rft("evaluator", "check", "./graders.py:right", "--only", "golden") == 0
    assert not (folder / "checks").exists()


def test_findings_are_annotations_on_github(monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    rft("evaluator", "check", "./graders.py:leaks", "--only", "golden")
    assert capsys.readouterr().err.startswith("::warning title=leaks golden::no golden cases: add some")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["./graders.py:rigth"], "graders.py has no 'rigth'; did you mean 'right'?"),
        (["./graders.py:right", "--only", "goldn"], "there is no stage 'goldn'"),
        (["./graders.py:right", "--set", "auc=1"], "--set auc=1: extra inputs"),
        (["./graders.py:right", "--policy"], "--policy and --controls need a recipe"),
        (["mine.yaml", "--policy", "--rollouts", "x"], "give one of them"),
        (["./graders.py:right", "--labels", "none.csv"], "labels none.csv cannot be read"),
        (["judge", "engine=base", "criteria={good: is it good}"], "base weights"),
    ],
)
def test_wrong_words_end_in_one_line_and_2(words, said, capsys):
    assert rft("evaluator", "check", *words) == 2
    err = capsys.readouterr().err.strip()
    assert said in err.splitlines()[-1]


def test_the_list_says_what_each_judges_reads_and_lacks(capsys):
    assert rft("evaluator", "list", "--json") == 0
    rows = {row["evaluator"]: row for row in json.loads(capsys.readouterr().out)["evaluators"]}
    assert rows["exact"] == {
        "evaluator": "exact",
        "judges": "1 when the whole answer equals the reference (or one of a list of references), else 0",
        "reads": "reference",
        "missing": "",
    }


def test_a_missing_package_is_named_in_the_list(monkeypatch):
    from rft import catalogue

    monkeypatch.setattr(catalogue, "find_spec", lambda name: None if name == "reasoning_gym" else True)
    rows = {row["evaluator"]: row for row in catalogue.installed()}
    assert rows["reasoning_gym"]["missing"] == "reasoning_gym"
    assert rows["exact"]["missing"] == ""


def test_a_new_evaluator_is_written_and_can_be_checked_at_once(capsys):
    assert rft("evaluator", "new", "polite") == 0
    assert "next: rft evaluator check ./polite.py:polite" in capsys.readouterr().out
    assert rft("evaluator", "check", "./polite.py:polite") == 0
