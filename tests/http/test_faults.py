"""Which answers mean that asking on is useless."""

from __future__ import annotations

import httpx
import pytest

from rft.http.faults import fault_of


@pytest.mark.parametrize(
    ("status", "hopeless"),
    [(301, True), (401, True), (403, True), (404, True), (405, True)]
    + [(400, False), (408, False), (422, False), (429, False), (500, False), (503, False)],
)
def test_a_wrong_token_or_address_is_hopeless_and_nothing_else_is(status, hopeless):
    request = httpx.Request("POST", "https://api.example/score")
    headers = {"location": "https://elsewhere.example"} if status == 301 else {}
    fault = fault_of(httpx.Response(status, request=request, headers=headers, text="no"))
    assert fault is not None
    assert (fault.hopeless, fault.retryable and fault.hopeless) == (hopeless, False)
