"""Names that are built in, or lead to a function of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from rft.recipe.problems import did_you_mean


def known_or_own(name: str, known: Sequence[str]) -> str:
    """The name, when it is one of `known` or has the shape of a path to a function.

    Where the path leads is not looked at here: that takes an import. Raises ValueError with the nearest name.
    """
    if name in known or ":" in name:
        return name
    choices = ", ".join(repr(one) for one in known)
    raise ValueError(
        f"must be {choices}, or your own by 'module:function' or './file.py:function'"
        f"{did_you_mean(name, known)}"
    )
