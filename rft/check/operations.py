"""Operations: what does it cost and how fast is it, and does an outage ever come out as a number?

Faults are injected into the evaluator's HTTP client, with short limits and a breaker of its own. Every one of
them must end as a failed score. 0.0 would teach the model that whatever it said during the outage was bad.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rft.check.answers import rollout
from rft.check.bench import Bench
from rft.check.faults import FAULTS, Injected, injected
from rft.check.findings import Finding, StageResult
from rft.evaluator import Evaluator
from rft.types import Rollout, Score

_PER_FAULT = 2
_TIMEOUT_S = 2.0


async def operations(bench: Bench) -> StageResult:
    """Injects faults where there is an HTTP client; reckons latency, throughput and cost."""
    good = await bench.good_answers()
    answers = [(one.task, one.text) for one in good[:_PER_FAULT]]
    answers = answers or [(one.task, one.text) for one in list(bench.rollouts)[:_PER_FAULT]]
    if not answers:
        return StageResult("operations", skipped="no answer to score; add golden cases")
    if bench.grouped:  # one alone has no score
        answers = [(one.task, one.text) for one in await bench.answers() if one.task.id == answers[0][0].id]
    if not bench.seen:
        await bench.judge(answers)
    given = [rollout(task, text, index) for index, (task, text) in enumerate(answers)]
    findings: list[Finding] = []
    figures = _figures(bench)
    sent = 0
    for fault in FAULTS:
        scores, seen = await _under(fault, bench, given)
        sent += seen.requests
        if not seen.requests:
            break  # it calls nobody, so there is nothing to break
        findings += _verdicts(fault, scores, seen)
    figures["faults_injected"] = float(sent)
    return StageResult("operations", [*findings, *_too_slow(bench, figures)], figures)


async def _under(fault: str, bench: Bench, given: Sequence[Rollout]) -> tuple[list[Score], Injected]:
    evaluator = impatient(bench.evaluator, f"check of {fault}")
    with injected(fault) as seen:
        return await bench.score(evaluator, given), seen


def impatient(evaluator: Evaluator, origin: str) -> Evaluator:
    """A twin that gives up soon, and whose failures count against nobody else's breaker."""
    twin = copy.copy(evaluator)
    parts = getattr(evaluator, "parts", None)
    if parts:  # a composite has no limits of its own, and must not stand in line with its parts
        twin.origin = f"{origin}, whole"
        shorter = {name: replace(p, evaluator=impatient(p.evaluator, origin)) for name, p in parts.items()}
        twin.parts = shorter  # type: ignore[attr-defined]  # composites have it
    else:
        twin.origin = origin
        seconds = min(_TIMEOUT_S, evaluator.limits.timeout_s)
        twin.limits = replace(evaluator.limits, timeout_s=seconds, attempts=1)
    return twin


def _verdicts(fault: str, scores: Sequence[Score], seen: Injected) -> list[Finding]:
    found = []
    numbers = [score for score in scores if score.ok]
    if numbers:
        found.append(
            Finding(
                "fail",
                f"an API that answers with {fault} came out as the score {float(numbers[0]):.3g}",
                "let the error through: check the status, require the fields you read, and raise "
                'EvaluatorError("bad_response", ...) for anything else; rft.HTTPEvaluator does it',
            )
        )
    if seen.followed_redirect:
        found.append(
            Finding(
                "fail",
                "a redirect was followed to another host, with the request's headers",
                "set follow_redirects=False, httpx's default",
            )
        )
    told = json.dumps([[score.reason, score.failure and score.failure.detail] for score in scores])
    if any(secret in told for secret in seen.secrets):
        found.append(
            Finding(
                "fail",
                f"the text of a failure ({fault}) holds the credential that was sent",
                "name secrets with rft.secrets.Secret, and keep responses' bodies out of messages",
            )
        )
    return found


def _figures(bench: Bench) -> dict[str, float | None]:
    seconds = [score.latency_s for score in bench.seen if score.ok and not score.cached]
    usd = float(np.mean([score.cost.usd for score in bench.seen])) if bench.seen else 0.0
    p50, p95 = np.percentile(seconds, [50, 95]) if seconds else (float("nan"), float("nan"))
    limits = bench.evaluator.limits
    fastest = limits.concurrency / max(p50, 1e-6) if seconds else float("inf")
    ceiling = min(fastest, limits.rpm / 60 if limits.rpm else float("inf"))
    return {
        "latency_p50_s": float(p50) if seconds else None,
        "latency_p95_s": float(p95) if seconds else None,
        "ceiling_per_s": ceiling if np.isfinite(ceiling) else None,
        "rollouts_per_s": bench.plan.rollouts_per_s if bench.plan else None,
        "usd_per_1000": 1000 * usd,
        "usd_per_run": usd * bench.plan.rollouts if bench.plan else None,
    }


def _too_slow(bench: Bench, figures: dict[str, float | None]) -> list[Finding]:
    ceiling, rate = figures["ceiling_per_s"], figures["rollouts_per_s"]
    budget, cost = bench.evaluator.limits.max_usd, figures["usd_per_run"]
    found = []
    if ceiling is not None and rate is not None and ceiling < rate:
        found.append(
            Finding(
                "warn",
                f"at most {ceiling:.3g} evaluations a second for {rate:.3g} rollouts a second",
                "raise limits.concurrency or rpm if the service allows, or training will wait for scores",
            )
        )
    if budget is not None and cost is not None and cost > budget:
        found.append(
            Finding(
                "warn",
                f"the run will cost about {cost:.2f} USD, but limits.max_usd is {budget:g}",
                "raise max_usd, a cheaper judge, or fewer rollouts; past the budget nothing is scored",
            )
        )
    return found
