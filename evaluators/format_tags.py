"""The answer keeps to a frame of tags: <think>...</think><answer>...</answer>."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rft.evaluator import Case, Evaluator
from rft.types import Rollout, Score

_Tag = Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")]


class FormatTags(Evaluator):
    """The share of `tags` that stand as they should: once, closed, not empty, one after the other.

    Text outside the tags makes the frame incomplete: it counts as one more part that is wrong, unless
    `outside: true` allows it. With `partial: false`, 1 for a perfect frame, else 0. With `opened: true` the
    prompt's template has already written the first tag.

    Cannot see: what stands in the tags. Weigh it low beside what judges the answer, or gate with it.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        tags: list[_Tag] = Field(["think", "answer"], min_length=1)
        opened: bool = False
        outside: bool = False
        partial: bool = True

    name = "format_tags"
    blind_to = frozenset({"content"})
    cases = (
        Case("?", "<think>2+2</think>\n<answer>4</answer>", expect=1.0),
        Case("?", "2+2</think><answer>4</answer>", expect=1.0, config={"opened": True}),
        Case("?", "Well: <think>2+2</think><answer>4</answer>", expect=2 / 3),
        Case("?", "Well: <think>2+2</think><answer>4</answer>", expect=1.0, config={"outside": True}),
        Case("?", "Well: <think>2+2</think><answer>4</answer>", expect=0.0, config={"partial": False}),
        Case("?", "<answer>4</answer>", expect=1 / 3),
        Case("?", "<answer>4</answer><think>so</think>", expect=1 / 3),
        Case("?", "<think>2+2<answer>4</answer></think>", expect=1 / 3),
        Case("?", "<think></think><answer> </answer>", expect=0.0),
        Case("?", "<think>a</think><answer>1</answer><answer>2</answer>", expect=1 / 3),
        Case("?", "<answer>4</answer>", expect=1.0, config={"tags": ["answer"]}),
        Case("?", "<think>2+2", expect=0.0),
        Case("?", "4", expect=0.0),
        Case("?", "", expect=0.0),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        tags = self.config.tags
        text = f"<{tags[0]}>{rollout.text}" if self.config.opened else rollout.text
        end, right, outside, wrong = 0, 0, "", []
        for tag in tags:
            found = _only(text, tag, end)
            if found is None:
                wrong.append(f"<{tag}>")
                continue
            start, stop = found
            outside += text[end:start]
            right, end = right + 1, stop
        framed = not wrong and (self.config.outside or not (outside + text[end:]).strip())
        if self.config.partial:
            value = (right + framed) / (len(tags) + 1) if not self.config.outside else right / len(tags)
        else:
            value = float(framed)
        if wrong:
            return Score(value, reason=f"missing, repeated, empty or out of place: {', '.join(wrong)}"[:200])
        return Score(value, reason=None if framed else "text outside the tags")


def _only(text: str, tag: str, after: int) -> tuple[int, int] | None:
    """Where the one <tag>...</tag> starts and stops; None when not one, empty, or begun before `after`."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, stop = text.find(opening), text.find(closing)
    if start < after or not text[start + len(opening) : stop].strip():
        return None
    return start, stop + len(closing)
