"""A real engine as the judge: embedded beside rollouts, and over its own HTTP endpoint.

The model is random, so its verdicts mean nothing; that they have the promised form, and come at all, does.
"""

from __future__ import annotations

import asyncio

import pytest

from rft import Message, Rollout, Task, score
from rft.chat import wanting_base
from rft.engine.base import Sampling
from rft.evaluators import Judge
from rft.scoring.compose import Weighted
from rft.scoring.runner import ScoringRunner

pytestmark = pytest.mark.engine

CRITERION = {"good": "Good."}
TASK = Task("t", "2+2?", reference="4")


async def test_the_embedded_engine_judges_while_it_rolls_out(engine, tiny_tokenizer):
    from rft.rollout.chat import BaseChat
    from rft.rollout.conversation import ChatTemplate

    judge = Judge(engine="base", criteria=CRITERION, max_tokens=1500)
    whole = Weighted(good=judge)
    for one in wanting_base(whole):
        one.base = BaseChat(engine, ChatTemplate(tiny_tokenizer), max_total_tokens=engine.max_model_len)
    members = [
        Rollout(f"t/{n}", "t", TASK, (*TASK.messages, Message("assistant", f"{n}<|im_end|>")))
        for n in range(3)
    ]
    free = Sampling(max_tokens=200, extra={"ignore_eos": True})
    async with ScoringRunner(whole) as runner:
        rolled, scores = await asyncio.gather(
            asyncio.gather(*(engine.generate([5, 6, 7], free) for _ in range(40))),  # more than fit at once
            asyncio.gather(*map(runner.score, members)),
        )
    assert [len(one.token_ids) for one in rolled] == [200] * 40
    for got in scores:
        part = got.parts["good"].parts["good"]
        assert got.value == part.value and part.value in (0.0, 0.25, 0.5, 0.75, 1.0)
        assert got.cost.tokens_in > 500 and got.cost.tokens_out > 10


def test_the_served_engine_judges_over_http(engine):
    from rft.recipe.schema import ServeSpec
    from rft.serve.app import build
    from rft.serve.server import Server, bind

    server = Server(lambda: build(engine, ServeSpec(), "tiny"), bind("127.0.0.1", 0))
    server.start()
    try:
        judge = Judge(url=f"{server.url}/v1", model="tiny", criteria=CRITERION, max_tokens=1500)
        got = score(judge, prompt="2+2?", completion="4", reference="4")
        unknown = score(
            Judge(url=f"{server.url}/v1", model="other"), prompt="2+2?", completion="4", reference="4"
        )
    finally:
        server.stop()
    assert got.value in (0.0, 0.25, 0.5, 0.75, 1.0), got.explain()
    assert got.cost.calls == got.attempts and got.cost.tokens_in > 500
    assert unknown.failure.kind == "bug" and "check url and model" in unknown.failure.detail
