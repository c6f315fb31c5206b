"""A secret's value goes where it is used and nowhere else. tests/http/test_redaction.py tries more doors."""

from __future__ import annotations

import base64
import json
import pickle
import urllib.parse

import pytest
from pydantic import BaseModel, ValidationError

from rft import Evaluator, EvaluatorError, Score, score
from rft.errors import UserError
from rft.secrets import Secret, hide, redact

VALUE = 'hunter2 "quoted"/päth'


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("RFT_TEST_GATE", VALUE)  # a name that does not look like a secret's
    return Secret("env:RFT_TEST_GATE")


class Config(BaseModel):
    key: Secret
    other: Secret | None = None


def test_the_value_is_read_where_it_is_used_and_may_change(token, monkeypatch):
    assert token.reveal() == VALUE
    monkeypatch.setenv("RFT_TEST_GATE", "rotated-value")
    assert token.reveal() == "rotated-value"


def test_a_scheme_stands_before_the_value(token):
    assert Secret("Bearer env:RFT_TEST_GATE").reveal() == f"Bearer {VALUE}"


def test_a_file_is_read_without_its_last_line_break(tmp_path):
    (tmp_path / "token").write_text("from-a-file\n")
    assert Secret(f"file:{tmp_path}/token").reveal() == "from-a-file"


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        lambda secret: repr(pickle.dumps(secret)),
        lambda secret: repr(Config(key=secret)),
        lambda secret: json.dumps(Config(key=secret).model_dump(mode="json")),
        lambda secret: repr(Config(key=secret).model_dump()),
        lambda secret: Config(key=secret).model_dump_json(),
    ],
)
def test_every_form_of_it_shows_the_name_even_after_it_was_revealed(token, show):
    token.reveal()
    shown = show(token)
    assert "RFT_TEST_GATE" in shown and "hunter2" not in shown


def test_a_pickled_secret_is_the_same_secret(token):
    again = pickle.loads(pickle.dumps(token))
    assert again == token and again.reveal() == VALUE


def test_a_model_takes_the_written_form_and_gives_it_back(token):
    config = Config(key="env:RFT_TEST_GATE")
    assert config.key == token
    assert config.model_dump(mode="json") == {"key": "env:RFT_TEST_GATE", "other": None}
    assert Config.model_json_schema()["properties"]["key"]["type"] == "string"
    with pytest.raises(ValidationError):
        Config()


@pytest.mark.parametrize("literal", ["sk-a-real-value", "env:", "env:sk-a real value", "", "env:sk-a-real"])
def test_a_value_in_place_of_a_name_is_refused_and_not_repeated(literal):
    for make in (Secret, lambda text: Config(key=text)):
        with pytest.raises(UserError, match="env:") as refused:
            make(literal)
        assert "sk-a" not in str(refused.value)


def test_a_missing_secret_names_its_variable_or_file(monkeypatch, tmp_path):
    monkeypatch.delenv("RFT_TEST_GATE", raising=False)
    with pytest.raises(UserError, match="variable RFT_TEST_GATE is not set; export RFT_TEST_GATE="):
        Secret("env:RFT_TEST_GATE").reveal()
    with pytest.raises(UserError, match="token cannot be read: No such file"):
        Secret(f"file:{tmp_path}/token").reveal()
    (tmp_path / "token").write_text("\n")
    with pytest.raises(UserError, match="token is empty"):
        Secret(f"file:{tmp_path}/token").reveal()
    with pytest.raises(UserError, match="whole path, got file:token"):
        Secret("file:token")


@pytest.mark.parametrize(
    "encode",
    [
        str,
        json.dumps,
        repr,
        lambda value: urllib.parse.quote(value, safe=""),
        urllib.parse.quote_plus,
        lambda value: base64.b64encode(value.encode()).decode(),
    ],
)
def test_a_revealed_value_is_hidden_however_a_server_echoes_it(token, encode):
    token.reveal()
    echoed = encode(VALUE)
    assert hide(f"you sent {echoed}, which is wrong").replace('"', "").replace("'", "") == (
        "you sent ***, which is wrong"
    )


def test_a_secret_that_begins_another_does_not_uncover_its_end(monkeypatch):
    for name, value in (("RFT_TEST_A", "abcdef"), ("RFT_TEST_B", "abcdef-and-more")):
        monkeypatch.setenv(name, value)
        Secret(f"env:{name}").reveal()
    assert hide("got abcdef-and-more") == "got ***"


def test_redacting_a_page_of_garbage_is_quick(token):
    """Backtracking over a word of a million letters would not end within the test run."""
    token.reveal()
    for garbage in ("x" * 1_000_000, "a://" * 250_000, "bearer " * 100_000):
        assert len(redact(garbage + VALUE)) <= 500


def test_a_score_shows_no_secret_that_its_author_let_out(token):
    class Careless(Evaluator):
        async def evaluate(self, rollout):
            value = token.reveal()
            if rollout.text == "bug":
                raise ValueError(f"sent {value}")
            raise EvaluatorError("server", f"it said {value}")

    for text in ("bug", "server"):
        got = score(Careless(), prompt="p", completion=text)
        assert isinstance(got, Score) and "***" in got.explain() and "hunter2" not in repr(got)
