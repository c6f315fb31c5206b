"""Lesson 1: an evaluator says how good an answer is. No model, no GPU: run it, then write your own.

An evaluator is a function, a configurable class, or several weighed together. A number is trained on; a
failed evaluation never becomes one.
"""

from pydantic import BaseModel

from rft import Evaluator, EvaluatorError, Score, evaluator, score
from rft.scoring.compose import Part, Weighted

ASK = "How many days has February 2024? Answer with the number."


@evaluator  # 1. A function: its arguments are filled in by name.
def exact(text, reference):
    return text.strip() == reference


class Close(Evaluator):  # 2. A class: has options, and can say why.
    class Config(BaseModel):
        within: float = 2.0

    requires = frozenset({"reference"})

    async def evaluate(self, rollout):
        try:
            off = abs(float(rollout.text) - float(rollout.task.reference))
        except ValueError:
            return Score(0.0, reason="not a number")  # the model's fault: a low score
        return Score(max(0.0, 1 - off / self.config.within), reason=f"off by {off:g}")


both = Weighted(exact=exact, close=Part(Close(within=4), weight=0.5))  # 3. Several, weighed.

for judge in (exact, Close(), both):
    for answer in ("29", "28", "twenty-nine"):
        got = score(judge, prompt=ASK, completion=answer, reference="29")
        print(f"{judge.name:9} {answer:12} {float(got):.2f}  {got.reason or ''}")


@evaluator
def product_api(text):
    raise EvaluatorError("server", "HTTP 503 from the product's API")  # not the model's fault


got = score(product_api, prompt=ASK, completion="29")
print(f"\nproduct_api: {got.explain()}; value {got.value}")
try:
    reward = 10 * float(got)
except ValueError as refusal:
    print(f"No zero slips into training: {refusal}")
