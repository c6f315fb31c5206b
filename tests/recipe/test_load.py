"""Loading: layers, overrides, paths, and every mistake at once."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft.errors import RecipeError
from rft.recipe.load import dump_recipe, list_recipes, load_recipe, recipe_from
from rft.recipe.presets import list_presets
from rft.recipe.schema import Recipe

SHORTEST = "model: owner/name\ndata: {train: tasks.jsonl}\nevaluator: exact\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


def test_the_shortest_recipe_names_a_model_data_and_an_evaluator(write, tmp_path):
    recipe = load_recipe(write(SHORTEST))
    assert recipe.model.source == "owner/name"
    assert recipe.data.train.source == str(tmp_path / "tasks.jsonl")
    assert recipe.evaluator.use == "exact" and recipe.environment.use == "single_turn"
    assert recipe.rollout.group_size == 8 and recipe.serve is None


def test_all_mistakes_come_out_together_with_line_path_and_what_was_got(write):
    path = write(
        "model: owner/name\n"
        "data:\n"
        "  train: tasks.jsonl\n"
        "train:\n"
        "  stpes: 5\n"
        "  learning_rate: fast\n"
        "  optimizer:\n"
        "    betas: [0.9, x]\n"
        "algorithm: {kind: grpoo}\n"
        "steps: 3\n"
    )
    found = {(problem.path, problem.line, problem.got) for problem in problems(path)}
    assert found == {
        ("train.stpes", 5, "5"),
        ("train.learning_rate", 6, '"fast"'),
        ("train.optimizer.betas.1", 8, '"x"'),
        ("algorithm.kind", 9, '"grpoo"'),
        ("steps", 10, "3"),
        ("evaluator", None, None),
    }
    said = str(RecipeError("r", problems(path)))
    assert "line 5, train.stpes: unknown key; did you mean 'train.steps'? (got 5)" in said
    assert "line 10, steps: unknown key; did you mean 'train.steps'?" in said
    assert "did you mean 'grpo'?" in said
    assert "evaluator: required, but not given" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {steps: many}", "must be a whole number"),
        ("train: {steps: 1.5}", "must be a whole number"),
        ("train: {steps: true}", "must not be true or false; null leaves it unset"),
        ("train: {steps: 0}", "must be greater than 0"),
        ("train: {learning_rate: .inf}", "must be a finite number"),
        ("train: {share_prompts: maybe}", "must be true or false"),
        ("train: 3", "must be a mapping"),
        ("rollout: {stop: x}", "must be a list"),
        ("rollout: {stop: [3]}", "must be text"),
        ("rollout: {top_p: 0}", "must be greater than 0"),
        ("engine: {args: 3}", "must be a mapping"),
        ("name: [a]", "must be text"),
        ("rollout: {group_size: 1}", "must be at least 2: answers to one prompt are compared"),
        (
            "algorithm: {advantage: grop}",
            "must be 'group', 'rloo', 'reinforce_pp', 'reinforce_pp_baseline', 'max_rl', 'gdpo', or your own "
            "by 'module:function' or './file.py:function'; did you mean 'group'?",
        ),
        ("algorithm: {kind: ppo, advantage: rloo}", "is for kind: grpo; PPO takes its critic's"),
        (
            "algorithm: {scale_rewards: batch, advantage: rloo}",
            "is for algorithm.advantage: group; other credit has its own scale",
        ),
        ("algorithm: {advantage_args: {a: 1}}", "is for a function of your own in algorithm.advantage"),
        (
            "algorithm: {turn_credit: turn, advantage: max_rl}",
            "turn has no meaning with algorithm.advantage: max_rl",
        ),
        (
            "algorithm: {beta: 0.1, kl: {place: reward}, advantage: gdpo}",
            "reward has no meaning with algorithm.advantage: gdpo; take loss",
        ),
        ("engine: {publish: adapter}", "is adapter, which needs model.adapter; set it, or take auto"),
        ("engine: {args: {max_num_seqs: 3}}", "has a key of its own: set engine.max_num_seqs"),
        ("eval: {samples: 4}", "above 1 gives the same greedy answer again; set eval.temperature too"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(write, text, message):
    (problem,) = problems(write(SHORTEST + text))
    assert problem.message == message
    assert problem.line == 4


def test_the_branches_of_a_choice_are_told_as_one_mistake(write):
    (problem,) = problems(write(SHORTEST), "model.adapter.targets=[q_proj, 3]")
    assert problem.path == "model.adapter.targets"
    assert problem.message == "must be 'all-linear' or a list; each item must be text"


def test_contradictions_are_told_all_at_once_at_their_keys(write):
    found = problems(write(SHORTEST + "rollout: {group_size: 1}\nengine: {publish: adapter}\n"))
    assert [(problem.path, problem.line) for problem in found] == [
        ("rollout.group_size", 4),
        ("engine.publish", 5),
    ]


def test_no_message_speaks_pydantic(write):
    text = SHORTEST + "train: {steps: x, nope: 1}\nrollout: {stop: 3}\nserve: {port: 99999, host: 3}\n"
    said = str(RecipeError("r", problems(write(text))))
    assert not [word for word in ("value_error", "Value error", "http", "Input", "pydantic") if word in said]


def test_broken_yaml_is_told_with_its_line(write):
    (problem,) = problems(write("model: [a\ndata: b\n"))
    assert problem.line == 2 and problem.message.startswith("not valid YAML")


def test_a_duplicate_key_and_a_wrong_value_are_told_together(write):
    found = problems(write(SHORTEST + "seed: 1\nseed: 2\nname: 3\n"))
    assert [problem.line for problem in found] == [5, 6]


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just text"])
def test_a_file_without_keys_is_refused(write, text):
    (problem,) = problems(write(text))
    assert "must be a mapping" in problem.message


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    (problem,) = problems(path)
    assert problem.message.startswith("cannot be read")


def test_a_missing_file_names_its_neighbours(write, tmp_path):
    write(SHORTEST, "sorting.yaml")
    (problem,) = problems(tmp_path / "sortin.yaml")
    assert f"did you mean {tmp_path / 'sorting.yaml'}?" in problem.message


def test_a_folder_is_not_a_recipe(tmp_path):
    (problem,) = problems(tmp_path)
    assert "is a folder" in problem.message


# Overrides


def test_an_override_sets_one_key_below_any_short_form(write):
    recipe = load_recipe(
        write(SHORTEST),
        [
            "train.steps=5",
            "model.adapter.rank=8",
            "model.dtype=float32",
            "evaluator.with.tolerance=1e-6",
            "data.train.limit=3",
            "serve.port=8001",
            "engine.args={block_size: 32}",
        ],
    )
    assert recipe.train.steps == 5
    assert recipe.model.adapter.rank == 8 and recipe.model.source == "owner/name"
    assert recipe.evaluator.use == "exact" and recipe.evaluator.with_ == {"tolerance": 1e-6}
    assert recipe.data.train.limit == 3
    assert recipe.serve.port == 8001
    assert recipe.engine.args == {"block_size": 32}


def test_a_new_model_keeps_the_adapter_but_a_new_evaluator_forgets_the_old_arguments(write):
    text = (
        "model: {source: owner/name, adapter: {rank: 4}}\n"
        "data: {train: tasks.jsonl}\n"
        "evaluator: {use: exact, with: {strip: true}}\n"
    )
    recipe = load_recipe(write(text), ["model=other/name", "evaluator=length"])
    assert recipe.model.source == "other/name" and recipe.model.adapter.rank == 4
    assert recipe.evaluator.use == "length" and recipe.evaluator.with_ == {}


def test_a_wrong_override_is_told_by_its_own_text(write):
    found = problems(write(SHORTEST), "train.stpes=5", "nonsense", "seed=[1", "seed.x=3", "train.steps.y=1")
    assert {(problem.origin, problem.path) for problem in found} == {
        ("override nonsense", ""),
        ("override seed=[1", "seed"),
        ("override train.stpes=5", "train.stpes"),
        ("override seed.x=3", "seed"),
        ("override train.steps.y=1", "train.steps"),
    }


def test_a_later_override_wins_and_covers_the_file(write):
    path = write(SHORTEST + "train:\n  steps: wrong\n")
    assert load_recipe(path, ["train.steps=1", "train.steps=2"]).train.steps == 2
    (problem,) = problems(path, "train={steps: worse}")
    assert problem.origin == "override train={steps: worse}" and problem.line is None


def test_a_key_below_a_plain_value_cannot_be_set(write):
    (problem,) = problems(write(SHORTEST + "seed: 3\n"), "seed.x=1")
    assert "seed is 3 and holds no keys" in problem.message


# Presets


@pytest.mark.parametrize("preset", [name for name, _ in list_presets()])
def test_every_preset_loads_and_says_what_it_is_for(write, preset):
    recipe = load_recipe(write(SHORTEST + f"preset: {preset}\n"))
    assert recipe != load_recipe(write(SHORTEST))
    assert len(dict(list_presets())[preset]) > 20


def test_layers_are_preset_then_file_then_override(write):
    path = write(SHORTEST + "preset: thorough\ntrain: {steps: 7, optimizer: {eps: 1e-6}}\n")
    recipe = load_recipe(path, ["rollout.group_size=3"])
    assert recipe.train.steps == 7  # the file wins over the preset
    assert recipe.rollout.group_size == 3  # the override over both
    assert recipe.train.optimizer.schedule == "cosine" and recipe.train.optimizer.eps == 1e-6  # merged below


def test_a_preset_meets_the_short_form_of_a_section(write):
    recipe = load_recipe(write(SHORTEST), ["preset=lora"])
    assert recipe.model.source == "owner/name" and recipe.model.adapter is not None


def test_null_takes_a_presets_section_away(write):
    path = write(
        "model: {source: a/b, adapter: null}\ndata: {train: t.jsonl}\nevaluator: exact\npreset: lora\n"
    )
    assert load_recipe(path).model.adapter is None


def test_an_unknown_preset_names_the_nearest(write):
    (problem,) = problems(write(SHORTEST + "preset: quik\n"))
    assert problem.line == 4 and "did you mean 'quick'?" in problem.message


def test_a_mistake_in_a_preset_is_blamed_on_the_preset(write, tmp_path, monkeypatch):
    (tmp_path / "bad.yaml").write_text("# A preset with a mistake.\ntrain: {steps: 0}\n")
    monkeypatch.setattr("rft.recipe.presets._FOLDER", tmp_path)
    (problem,) = problems(write(SHORTEST + "preset: bad\n"))
    assert str(problem) == "preset bad, train.steps: must be greater than 0 (got 0)"


def test_a_preset_can_contradict_the_file(write):
    (problem,) = problems(write(SHORTEST + "preset: thorough\nengine: {max_model_len: 100}\n"))
    assert problem.path == "engine.max_model_len" and problem.line == 5


# Paths


def test_paths_in_the_file_start_beside_it(write, tmp_path):
    (tmp_path / "local_model").mkdir()
    recipe = load_recipe(
        write(
            "model: {source: local_model, chat_template: chat.jinja}\n"
            "data: {train: ./rows.py:make, eval: ../held.csv}\n"
            "evaluator: {use: weighted, with: {tone: {use: ./tone.py:polite}, more: [a.py:b, c]}}\n"
            "environment: ./game.py:Game\n"
        )
    )
    assert recipe.model.source == str(tmp_path / "local_model")
    assert recipe.model.chat_template == str(tmp_path / "chat.jinja")
    assert recipe.data.train.source == f"{tmp_path / 'rows.py'}:make"
    assert recipe.data.eval.source == str(tmp_path.parent / "held.csv")
    assert recipe.evaluator.with_ == {
        "tone": {"use": f"{tmp_path / 'tone.py'}:polite"},
        "more": [f"{tmp_path / 'a.py'}:b", "c"],
    }
    assert recipe.environment.use == f"{tmp_path / 'game.py'}:Game"


def test_names_that_are_not_paths_stay_as_they_are(write, tmp_path):
    (tmp_path / "exact").mkdir()  # a folder that happens to be called like an evaluator
    data = "data: {train: reasoning-gym:chain_sum, eval: owner/name}\n"
    text = f"model: packaged:smollm2\n{data}evaluator: exact\n"
    recipe = load_recipe(write(text), ["environment=package.module:Game"])
    assert recipe.model.source == "packaged:smollm2"
    assert recipe.data.train.source == "reasoning-gym:chain_sum" and recipe.data.eval.source == "owner/name"
    assert recipe.evaluator.use == "exact" and recipe.environment.use == "package.module:Game"


def test_a_path_in_an_override_starts_where_rft_was_started(write, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.jsonl").touch()
    path = write(SHORTEST)
    monkeypatch.chdir(here)
    assert load_recipe(path, ["data.train=mine.jsonl"]).data.train.source == str(here / "mine.jsonl")
    (tmp_path / "beside.jsonl").touch()  # else beside the recipe
    assert load_recipe(path, ["data.train=beside.jsonl"]).data.train.source == str(tmp_path / "beside.jsonl")


def test_the_recipes_folder_is_searched_last(write, tmp_path):
    before = list(sys.path)
    load_recipe(write(SHORTEST))
    assert sys.path == [*before, str(tmp_path)]
    sys.path.remove(str(tmp_path))


# Dump


@pytest.mark.parametrize("name", [name for name, _ in list_recipes()])
def test_every_shipped_recipe_loads_and_survives_a_dump(write, name):
    recipe = load_recipe(name)
    assert load_recipe(write(dump_recipe(recipe))) == recipe


overrides = st.lists(
    st.sampled_from(
        [
            *(f"preset={name}" for name, _ in list_presets()),
            "model.adapter={}",
            "model.adapter=null",
            "model.adapter.targets=[q_proj]",
            "engine.args={}",
            "engine.args={a: '1e-6', b: 1e-6, c: 'off', d: null, e: [1, {f: 007}]}",
            "serve={}",
            "serve.api_key_env=RFT_KEY",
            "rollout.stop=['\\n', ': ', '']",
            "train.optimizer.betas=[0, 1]",
            "train.learning_rate=3e-7",
            "data.eval={source: x.csv, columns: {prompt: q}, template: '{q} {{}}', with: {}}",
            "evaluator={use: m:C, with: {words: [yes, no, 1.5]}}",
            "name='123'",
        ]
    ),
    max_size=6,
)


@settings(max_examples=40)
@given(overrides)
def test_a_dumped_recipe_loads_as_an_equal_one(tmp_path_factory, chosen):
    folder = tmp_path_factory.mktemp("dump")
    (folder / "a.yaml").write_text(SHORTEST)
    recipe = load_recipe(folder / "a.yaml", chosen)
    elsewhere = folder / "run" / "recipe.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(elsewhere) == recipe


def test_a_dump_holds_the_name_of_a_secret_and_not_the_secret(write, monkeypatch):
    monkeypatch.setenv("RFT_KEY", "hunter2")
    text = dump_recipe(load_recipe(write(SHORTEST), ["serve.api_key_env=RFT_KEY"]))
    assert "RFT_KEY" in text and "hunter2" not in text


def test_a_recipe_can_be_made_in_python_with_the_same_short_forms():
    made = Recipe.model_validate({"model": "a/b", "data": {"train": "t.jsonl"}, "evaluator": "exact"})
    assert made.evaluator.use == "exact" and Path(made.data.train.source).name == "t.jsonl"


def test_a_mapping_is_read_like_a_file_with_paths_from_the_folder_named(tmp_path):
    values = {"model": "owner/name", "data": {"train": "./t.jsonl"}, "evaluator": "./g.py:near"}
    recipe = recipe_from(values, source="a test", folder=tmp_path)
    assert recipe.data.train.source == str(tmp_path / "t.jsonl")
    assert recipe.evaluator.use == f"{tmp_path}/g.py:near"
    with pytest.raises(RecipeError, match="a test: 2 mistakes"):
        recipe_from(
            {"model": "owner/name", "evaluatr": "exact"} | {"data": {"train": "t.jsonl"}},
            source="a test",
            folder=tmp_path,
        )


def test_a_new_evaluator_is_held_to_the_same_check(write):
    text = SHORTEST.replace("exact", "{use: exact, require_check: pass}")
    recipe = load_recipe(write(text), ["evaluator=length"])
    assert (recipe.evaluator.use, recipe.evaluator.require_check) == ("length", "pass")
