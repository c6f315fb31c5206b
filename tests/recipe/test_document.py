import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft.recipe.document import read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),  # PyYAML alone reads this as text
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("off", "off"),  # PyYAML alone reads these as a switch, a number and a date
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("007", "007"),
        ("1_000", 1000),
        ("0x1f", 31),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1e-6'", "1e-6"),
    ],
)
def test_scalars_are_what_the_author_of_a_recipe_means(text, value):
    read = read_yaml(f"key: {text}").data["key"]
    assert read == value and type(read) is type(value)


def test_every_key_and_item_knows_its_line():
    document = read_yaml("# header\na: 1\nb:\n  c: 2\n  d:\n    - x\n    - y\n")
    assert document.lines == {
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "d"): 5,
        ("b", "d", 0): 6,
        ("b", "d", 1): 7,
    }


def test_a_key_given_twice_is_a_mistake_and_the_first_stays():
    document = read_yaml("a:\n  b: 1\n  c: 2\n  b: 3\n")
    assert document.mistakes == [(4, "a.b is given twice; first on line 2")]
    assert document.data == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", 2, "expected a single document"),
        ("a: &x [*x]\n", 1, "an alias contains itself"),
        ("a: 1\nb: !!python/object/apply:os.getcwd []\n", 2, "has no meaning here"),
        ("a: 1\nb: !!python/name:os.getcwd\n", 2, "could not determine a constructor"),
        ("a: 1\n\nb: \x00\n", 3, "'\\x00' may not occur"),
        ("? [a, b]\n: 1\n", 1, "a key must be plain text"),
    ],
)
def test_bad_yaml_is_told_with_its_line(text, line, said):
    (found,) = read_yaml(text).mistakes
    assert found[0] == line
    assert said in found[1]


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))
    | st.sampled_from(["1e-6", "off", "null", "", "007", "0x1f", "a: b", "# x", "\x85", "\u2028", " x "])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc:# ", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
def test_what_is_written_reads_back_as_the_same_values(value):
    document = read_yaml(write_yaml({"key": value}))
    assert document.mistakes == []
    assert document.data == {"key": value}
