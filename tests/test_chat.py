"""Who asks for the base weights, wherever it stands inside other evaluators."""

from __future__ import annotations

from rft import Evaluator
from rft.chat import wanting_base
from rft.evaluators import Exact, Judge
from rft.scoring.compose import Part, Weighted


class Wrapper(Evaluator):
    """As a user writes one."""

    def __init__(self, *inner: Evaluator) -> None:
        super().__init__()
        self.first, self.others = inner[0], list(inner[1:])
        self.me = self


def test_judges_on_the_engine_are_found_inside_composites_and_wrappers():
    wants = [Judge(engine="base") for _ in range(4)]
    elsewhere = Judge(url="http://127.0.0.1:9/v1", model="m")
    whole = Weighted(
        a=wants[0],
        b=Part(Weighted(c=wants[1], exact=Exact()), weight=0.5),
        d=Wrapper(wants[2], elsewhere, wants[3], wants[0]),
    )
    assert {id(one) for one in wanting_base(whole)} == {id(one) for one in wants}
    assert wanting_base(elsewhere) == []
    assert wanting_base(wants[0]) == [wants[0]]
