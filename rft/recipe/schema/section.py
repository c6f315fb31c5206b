"""What every section of a recipe is: frozen, strict, and documented line by line.

Some sections may be written as plain text: `evaluator: exact` is `evaluator: {use: exact}`. Each such
section names in `shorthand` the key that the text stands for.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the recipe: frozen, unknown keys refused, defaults checked too."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
    shorthand: ClassVar[str | None] = None
    """The key that plain text in place of this section stands for."""
    short_types: ClassVar[tuple[type, ...]] = (str,)
    """What may stand in place of this section."""

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: Any) -> Any:
        return {cls.shorthand: value} if cls.shorthand and isinstance(value, cls.short_types) else value

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts true as 1; in a recipe it is a slip.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("must not be true or false; null leaves it unset")
        return value


class Use(Section):
    """A class by name and its arguments. `exact` is short for `{use: exact}`."""

    shorthand: ClassVar[str | None] = "use"

    use: str
    """`module:Class`, `./file.py:Class` beside the recipe, or the name of an installed one."""
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Its arguments, checked against its Config before anything loads."""
