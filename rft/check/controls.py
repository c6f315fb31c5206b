"""Controls: does training with this evaluator beat training with a random one?

A rising curve proves nothing by itself: random rewards have raised benchmarks by twenty points
(arXiv:2506.10947). So the same few steps are trained with `random` and `constant` in its place, and all are
judged on held-out tasks.
"""

from __future__ import annotations

from rft.check.bench import Bench
from rft.check.findings import Finding, StageResult
from rft.stats import paired_difference


async def controls(bench: Bench) -> StageResult:
    """Compares what the page has trained and judged; see `Bench.controls`."""
    if bench.controls is None:
        return StageResult(
            "controls", skipped="trains three small models; give a recipe and --controls STEPS"
        )
    mine = bench.controls["evaluator"]
    findings: list[Finding] = []
    figures: dict[str, float | None] = {}
    for name, others in bench.controls.items():
        if name == "evaluator":
            continue
        both = [task for task in mine if task in others]
        gain = paired_difference([mine[task] for task in both], [others[task] for task in both])
        figures |= {f"gain_over/{name}": gain.mean, f"gain_over/{name}_low": gain.low}
        if gain.low <= 0:
            findings.append(
                Finding(
                    "warn",
                    f"training with the evaluator is not shown to beat training with {name}: "
                    f"held-out difference {gain} over {len(both)} tasks",
                    "train more steps or judge more tasks (eval.tasks); if it stays so, whatever rises is "
                    "not due to this evaluator",
                )
            )
    return StageResult("controls", findings, figures)
