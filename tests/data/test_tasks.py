import pytest

from rft.data.rows import Row
from rft.data.tasks import missing_fields, prompt_key, to_task
from rft.errors import DataError
from rft.recipe.schema import SourceSpec
from rft.types import Message, Task


def task(row, index=0, **options):
    return to_task(Row("a.jsonl:7", row), SourceSpec.model_validate({"source": "a.jsonl", **options}), index)


def refusal(row, **options):
    with pytest.raises(DataError) as caught:
        task(row, **options)
    assert str(caught.value).startswith("a.jsonl:7: ")
    return str(caught.value)


def test_a_text_prompt_becomes_one_user_message_and_other_columns_metadata():
    made = task({"prompt": "2+2?", "reference": "4", "level": 3})
    assert made.prompt == (Message("user", "2+2?"),)
    assert made.reference == "4" and made.metadata == {"level": 3}


def test_a_plain_prompt_stays_text():
    assert task({"prompt": "Once upon"}, chat=False).prompt == "Once upon"


def test_columns_are_renamed_ours_to_theirs():
    made = task(
        {"question": "q", "answer": "a", "uid": 17, "tests": [1]},
        columns={"prompt": "question", "reference": "answer", "id": "uid", "cases": "tests"},
    )
    assert made == Task("17", (Message("user", "q"),), "a", {"cases": [1]})


def test_two_columns_may_swap_names():
    made = task({"prompt": "a", "reference": "b"}, columns={"prompt": "reference", "reference": "prompt"})
    assert made.messages[0].content == "b" and made.reference == "a"


def test_a_template_is_filled_from_the_row_and_its_columns_stay():
    made = task({"numbers": [3, 1], "n": 2}, template="Sort {numbers}, as {{json}}.")
    assert made.messages[0].content == "Sort [3, 1], as {json}."
    assert made.metadata == {"numbers": [3, 1], "n": 2}


def test_messages_and_a_system_message_make_a_chat():
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    made = task({"messages": chat}, system="Be brief.")
    assert [message.to_dict() for message in made.prompt] == [
        {"role": "system", "content": "Be brief."},
        *chat,
    ]
    assert task({"prompt": chat}).prompt == task({"messages": chat}).prompt


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"question": "q"}, {}, "no prompt: map a column (`columns: {prompt: ...}`) or write a `template`"),
        ({"promt": "q"}, {}, "did you mean 'promt'? The row has promt"),
        ({"prompt": "q"}, {"columns": {"reference": "anser"}}, "no column 'anser' for reference"),
        ({"prompt": "  "}, {}, "the prompt is empty"),
        ({"prompt": 3}, {}, "must be text or a list of messages, got int"),
        ({"messages": []}, {}, "holds no messages"),
        ({"messages": [{"content": "a"}]}, {}, "a message needs role and content: no 'role'"),
        ({"messages": [{"role": "bot", "content": "a"}]}, {}, "got 'bot'"),
        ({"messages": ["a"]}, {}, "a message needs role and content"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, {}, "nothing left to answer"),
        ({"messages": [{"role": "system", "content": "a"}]}, {"system": "b"}, "a system message of its own"),
        ({"messages": [{"role": "user", "content": "a"}]}, {"chat": False}, "but chat is false"),
        ({"numbers": 1}, {"template": "{number}"}, "asks for 'number'; did you mean 'numbers'?"),
        ({"numbers": 1}, {"template": '{"a": 1}'}, "the template asks for '\"a\"'"),
        ({"numbers": 1}, {"template": "{numbers"}, "write {{ and }} for braces that stay"),
        ({"numbers": 1}, {"template": "{}"}, "write {{ and }} for braces that stay"),
    ],
)
def test_a_row_that_makes_no_task_is_told_with_its_place(row, options, said):
    assert said in refusal(row, **options)


def test_an_id_without_a_column_is_stable_and_tells_content_and_place_apart():
    first = task({"prompt": "a", "reference": "1"})
    assert task({"reference": "1", "prompt": "a"}).id == first.id
    ids = {
        first.id,
        task({"prompt": "a", "reference": "1"}, index=1).id,
        task({"prompt": "b", "reference": "1"}).id,
        task({"prompt": "a", "reference": "2"}).id,
    }
    assert len(ids) == 4


def test_a_task_made_by_the_user_passes_as_it_is():
    own = Task("mine", "text")
    assert task(own) is own
    assert "this is a Task already" in refusal(own, system="x")


def test_equal_prompts_have_equal_keys_whatever_else_differs():
    assert prompt_key(task({"prompt": "a", "reference": "1"})) == prompt_key(task({"prompt": "a"}, index=9))
    assert prompt_key(task({"prompt": "a"})) != prompt_key(task({"prompt": "a"}, chat=False))


def test_null_counts_as_missing():
    made = task({"prompt": "a", "reference": None, "x": None, "y": 0})
    assert missing_fields(made, {"reference", "x", "y", "z"}) == ["reference", "x", "z"]
