"""What is asked."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from rft.recipe.schema.section import Probability, Section


class SourceSpec(Section):
    """One set of tasks. A plain string is short for `{source: ...}`."""

    shorthand: ClassVar[str | None] = "source"

    source: str
    """A .jsonl, .csv or .parquet file; a folder or hub id of a Hugging Face dataset; `module:function` or
    `./file.py:function` yielding rows; or `reasoning-gym:NAME`."""
    split: str | None = None
    """Split of a Hugging Face dataset; `train` when unset."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Ours to theirs: `{prompt: question, reference: answer}`. Ours are prompt, messages, reference, id,
    and any field that an evaluator asks for."""
    template: str | None = None
    """A prompt built from the row: "Sort these numbers: {numbers}"."""
    system: str | None = None
    """A system message put before each chat prompt."""
    chat: bool = True
    """False: the prompt is plain text, continued without a chat template."""
    limit: PositiveInt | None = None
    """Keep the first so many rows."""
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Arguments for a function, a reasoning-gym generator, or `datasets.load_dataset`."""


class CurriculumSpec(Section):
    """Asking what is neither too easy nor too hard yet."""

    low: Probability = 0.1
    """Tasks whose mean reward was last below this share of the evaluator's range are asked less often."""
    high: Probability = 0.9
    """Tasks whose mean reward was last above this share are asked less often."""
    keep: Probability = 0.25
    """How often such tasks are still asked."""


class DataSpec(Section):
    """Tasks to train on and, apart from them, tasks to judge by."""

    train: SourceSpec
    """Tasks to train on; for `sft`, `dpo` and `kto` rows with their answers."""
    eval: SourceSpec | None = None
    """Held-out tasks; when unset, `eval.tasks` tasks are set aside from `train`."""
    shuffle: bool = True
    """A new seeded order each epoch; false keeps the order of the file."""
    curriculum: CurriculumSpec | None = None
    """Ask tasks by how hard they have been: `{}` for the defaults. Unset, every task comes once an epoch."""
