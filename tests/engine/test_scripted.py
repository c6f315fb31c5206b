"""The fake engine keeps the real one's promises, as far as rollouts can tell."""

from __future__ import annotations

import asyncio

from rft.engine.base import Completion, Sampling
from rft.engine.scripted import ScriptedEngine
from rft.models.tiny import tiny_tokenizer


def test_it_answers_from_the_prompt_and_ends_its_turn_unless_it_is_cut():
    tokenizer = tiny_tokenizer()
    engine = ScriptedEngine(tokenizer, lambda prompt, sampling: prompt.upper())
    engine.version = 3
    prompt = tokenizer("abc")["input_ids"]
    whole = asyncio.run(engine.generate(prompt, Sampling(max_tokens=4)))
    assert tokenizer.decode(whole.token_ids) == "ABC<|im_end|>"
    assert whole == Completion(whole.token_ids, (-1.0,) * 4, "stop", ((3, 0, 4),))
    cut = asyncio.run(engine.generate(prompt, Sampling(max_tokens=3)))
    assert (tokenizer.decode(cut.token_ids), cut.finish_reason) == ("ABC", "length")
    assert engine.prompts == [prompt, prompt]
    with engine.paused():
        engine.close()
