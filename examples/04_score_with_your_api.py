"""Lesson 4: your product's own API is the evaluator, bad days included. A few seconds, no model, no GPU.

The "product" is a small shop that runs in this very file: it prices carts by rules that the model writes. Its
API has tokens, limits and bad days like any other. `HTTPEvaluator` asks it; what goes wrong on the way is
tried again or masked, and never becomes a number.

    python examples/04_score_with_your_api.py
"""

import itertools
import json
import os
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rft import HTTPEvaluator, Message, Rollout, Score, Task, score
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Use

CARTS = [(20, 20), (60, 54), (100, 90), (250, 200)]  # what is in the cart, what it should cost


class Shop(BaseHTTPRequestHandler):
    """POST /rules/try: how many sample carts does a rule {"above": euros, "percent": off} price right?"""

    weather = itertools.repeat("fine")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer let-me-in":
            return self.answer(401, {"error": f"unknown token {self.headers['Authorization']}"})
        match next(self.weather):
            case "busy":
                return self.answer(429, {"error": "slow down"}, {"Retry-After": "1"})
            case "broken":
                return self.answer(500, {"error": "database"})
            case "silent":
                return time.sleep(3)
            case "reset":  # with nothing to linger for, closing resets the connection
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return self.connection.close()
        try:
            rules = json.loads(body["rules"])
            right = sum(price(cart, rules) == wanted for cart, wanted in CARTS)
        except (ValueError, TypeError, KeyError) as error:
            return self.answer(422, {"error": f"not a list of rules: {error}"})
        self.answer(200, {"carts": {"right": right, "of": len(CARTS)}, "share": right / len(CARTS)})

    def answer(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *told):
        pass


def price(cart, rules):
    off = max((rule["percent"] for rule in rules if cart >= rule["above"]), default=0)
    return cart * (100 - off) / 100


class Rules(HTTPEvaluator):  # What is sent, and how the answer reads. The rest is not yours to write.
    def build_request(self, rollout):
        return {"rules": rollout.text}

    def parse_response(self, response, rollout):
        carts = response.json()["carts"]
        return Score(carts["right"] / carts["of"], reason=f"{carts['right']} of {carts['of']} carts right")


ASK = 'Write discount rules as JSON: [{"above": euros, "percent": off}, ...]. Carts: 60 -> 54, 250 -> 200.'
GOOD = '[{"above": 50, "percent": 10}, {"above": 200, "percent": 20}]'
HALF = '[{"above": 50, "percent": 10}]'
NONE = "I would give everybody ten percent."

server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
server.handle_error = lambda *hung_up: None
threading.Thread(target=server.serve_forever, daemon=True).start()
options = {
    "url": f"http://127.0.0.1:{server.server_port}/rules/try",
    "headers": {"Authorization": "Bearer env:SHOP_TOKEN"},  # a name; the value is in no log, dump or rollout
    "model_fault_statuses": [422],  # by this the shop says that the model's rules are no good
    "limits": {"timeout_s": 1, "deadline_s": 20, "attempts": 6, "backoff_s": 0.1},
}
os.environ["SHOP_TOKEN"] = "let-me-in"
rules = Rules(**options)

print("1. What would be sent?\n")
task = Task("rules-1", (Message("user", ASK),))
print(rules.dry_run(Rollout("rules-1/0", "rules-1", task, (*task.messages, Message("assistant", HALF)))))

print("\n2. On a fine day:\n")
for answer in (GOOD, HALF, NONE):
    got = score(rules, prompt=ASK, completion=answer)
    print(f"  {float(got):.2f}  {got.reason}")

print("\n3. On a bad day, the same numbers, a little later:\n")
Shop.weather = itertools.cycle(["busy", "fine", "broken", "reset", "fine", "silent", "fine"])
for answer, expected in ((GOOD, 1.0), (HALF, 0.75), (NONE, 0.0)):
    got = score(rules, prompt=ASK, completion=answer)
    print(f"  {float(got):.2f}  {got.reason}  (attempt {got.attempts}, {got.latency_s:.1f} s)")
    assert float(got) == expected

print("\n4. When nothing helps there is no number, so nothing is learnt from it:\n")
Shop.weather = itertools.repeat("broken")
down = score(rules, prompt=ASK, completion=GOOD)
Shop.weather = itertools.repeat("fine")
os.environ["SHOP_TOKEN"] = "a-wrong-token"
refused = score(rules, prompt=ASK, completion=GOOD)  # never heals by itself: not tried again, stops a run
for got in (down, refused):
    print(f"  {got.value}  {got.failure.kind}: {got.failure.detail}")
assert down.value is None and refused.value is None and refused.attempts == 1
assert "a-wrong-token" not in repr(refused), "the shop echoes tokens; stored rollouts must not"

print("\n5. As simple an API needs no class. In a recipe:\n")
os.environ["SHOP_TOKEN"] = "let-me-in"
use = {"use": "http", "with": {**options, "body": {"rules": "{text}"}, "score": "share"}}
print(f"  evaluator: {json.dumps(use)}\n")
print(" ", float(score(resolve_evaluator(Use.model_validate(use)), prompt=ASK, completion=HALF)))
