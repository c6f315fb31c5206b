"""Secrets go by name, and their values are taken out of every text that is kept or shown.

    headers: {Authorization: Bearer env:GRADER_TOKEN}
    api_key: file:/run/secrets/grader

A recipe, a dump, a fingerprint and a pickle hold the name. The value is read where it is used and kept in no
attribute; from then on `hide` knows it, also JSON-escaped, percent-encoded or in Base64, as servers echo it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.errors import UserError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

_WRITTEN = re.compile(r"(?:(?P<scheme>[A-Za-z][\w-]*) )?(?P<kind>env|file):(?P<place>\S.*)")
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_TELLING = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTHORIZATION|COOKIE", re.IGNORECASE)
_LONGEST = 500
_SEARCHED = 8 * _LONGEST

_revealed: set[str] = set()
"""Every text that gives a revealed secret away."""


class Secret:
    """The name of a secret: `env:NAME` or `file:PATH`, with the scheme of a header before it if need be.

    Raises UserError for any other text, without repeating it: it may be the secret itself.

    >>> os.environ["GRADER_TOKEN"] = "hunter2"
    >>> token = Secret("Bearer env:GRADER_TOKEN")
    >>> token, token.reveal()
    (Secret('Bearer env:GRADER_TOKEN'), 'Bearer hunter2')
    >>> hide("401 for hunter2")
    '401 for ***'
    """

    __slots__ = ("_kind", "_place", "_scheme")

    def __init__(self, written: str) -> None:
        found = _WRITTEN.fullmatch(written)
        if found is None:
            raise UserError(
                "a secret is named, not written out: env:NAME or file:/PATH "
                "(got other text, not repeated here as it may be the secret)"
            )
        self._scheme, self._kind, self._place = found["scheme"], found["kind"], found["place"]
        if self._kind == "env" and not _VARIABLE.fullmatch(self._place):
            raise UserError(
                "env: is followed by an environment variable's name, as in env:GRADER_TOKEN "
                "(got other text, not repeated here as it may be the secret)"
            )
        if self._kind == "file" and not Path(self._place).expanduser().is_absolute():
            raise UserError(f"the file of a secret is given with its whole path, got file:{self._place}")

    @staticmethod
    def is_written(text: str) -> bool:
        """Whether a text of a recipe names a secret."""
        return _WRITTEN.fullmatch(text) is not None

    def reveal(self) -> str:
        """The value as it is now, with the scheme before it. `hide` knows it from here on.

        Raises UserError when the variable or the file is missing or empty.
        """
        value = self._read()
        _remember(value)
        return f"{self._scheme} {value}" if self._scheme else value

    def _read(self) -> str:
        if self._kind == "env":
            if value := os.environ.get(self._place, "").strip():
                return value
            raise UserError(f"the environment variable {self._place} is not set; export {self._place}=...")
        try:
            value = Path(self._place).expanduser().read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise UserError(f"the secret's file {self._place} cannot be read: {why}") from None
        if not value:
            raise UserError(f"the secret's file {self._place} is empty")
        return value

    def __str__(self) -> str:
        return f"{self._scheme} {self._kind}:{self._place}" if self._scheme else f"{self._kind}:{self._place}"

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In a pydantic model: from text or a Secret, back to text. A wrong one ends in a UserError, not in
        pydantic's own, which would show the input.
        """
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda given: given if isinstance(given, Secret) else cls(str(given)),
            json_schema_input_schema=core_schema.str_schema(),
            serialization=core_schema.to_string_ser_schema(),
        )


def is_telling(name: str) -> bool:
    """Whether a variable, header or parameter of this name holds a secret, by the look of it."""
    return _TELLING.search(name) is not None


def hide(text: str) -> str:
    """The text without the values of revealed secrets and of secret-looking environment variables."""
    telling = {value for name, value in os.environ.items() if len(value) >= 8 and is_telling(name)}
    for value in sorted(_revealed | telling, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(value, "***")
    return text


def redact(text: str) -> str:
    """What may be stored of a message from elsewhere: hidden values, no credentials in URLs, 500 letters."""
    text = hide(text)[:_SEARCHED]  # cut before the patterns, which take long on a page of garbage
    text = re.sub(r"\b(\w+://)[^/\s@'\"]+@", r"\1***@", text)
    text = re.sub(r"\b(\w+://[^\s'\"?]*)\?[^\s'\"]*", r"\1?***", text)
    text = re.sub(r"(?i)\b(bearer|basic)\s+(?!(?:env|file):)[\w.~+/=-]+", r"\1 ***", text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _remember(value: str) -> None:
    _revealed.update(
        {
            value,
            json.dumps(value)[1:-1],
            repr(value)[1:-1],
            urllib.parse.quote(value, safe=""),
            urllib.parse.quote_plus(value),
            base64.b64encode(value.encode()).decode(),
        }
    )
