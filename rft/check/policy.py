"""Policy: is there something to learn from this evaluator for the very model that will be trained?

A group whose members all score the same has no gradient (arXiv:2503.14476), and a reward that hardly varies
trains slowly however accurate it is (arXiv:2503.15477). Both depend on the policy, so they are measured on
its own answers, sampled as training will.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from rft.check.bench import Bench
from rft.check.findings import Finding, StageResult
from rft.types import Rollout, Score

_SAME = 1e-9


async def policy(bench: Bench) -> StageResult:
    """Reads groups of the policy's own answers."""
    groups = _groups(await bench.scored())
    if not groups:
        why = "no groups of a model's answers; give a recipe and --policy to sample it, or --rollouts RUN"
        return StageResult("policy", skipped=why)
    figures = _figures(bench, groups)
    return StageResult("policy", list(_findings(bench, figures)), figures)


def _groups(scored: Sequence[tuple[Rollout, Score]]) -> list[list[tuple[Rollout, Score]]]:
    found: dict[str, list[tuple[Rollout, Score]]] = defaultdict(list)
    for rollout, score in scored:
        found[rollout.group_id].append((rollout, score))
    return [group for group in found.values() if len(group) > 1]


def _figures(bench: Bench, groups: Sequence[Sequence[tuple[Rollout, Score]]]) -> dict[str, float | None]:
    valid = [values for group in groups if len(values := [float(s) for _, s in group if s.ok]) > 1]
    members = [one for group in groups for one in group]
    counts: dict[str, float | None] = {
        "truncated": float(np.mean([rollout.truncated for rollout, _ in members])),
        "unscored": float(np.mean([not score.ok for _, score in members])),
        "groups": float(len(groups)),
        "answers": float(len(members)),
    }
    if not valid:
        return counts
    scores = np.concatenate([np.asarray(values) for values in valid])
    low, high = bench.evaluator.range
    finite = np.isfinite([low, high]).all()
    # An answer passes from the middle of the range on; without a range, from the middle of what was seen.
    passing = (low + high) / 2 if finite else (scores.min() + scores.max()) / 2
    constant = float(np.mean([np.ptp(values) <= _SAME for values in valid]))
    return {
        "constant_groups": constant,
        "useful_groups_per_step": bench.plan.prompts_per_step * (1 - constant) if bench.plan else None,
        "pass_rate": float((scores >= passing).mean()),
        "within_group_sd": float(np.mean([np.std(values, ddof=1) for values in valid])),
        "best_of_group_gap": float(np.mean([max(values) - np.mean(values) for values in valid])),
        "mean": float(scores.mean()),
        "saturated": float((scores >= high - _SAME).mean()) if finite else None,
        **counts,
    }


def _findings(bench: Bench, figures: dict[str, float | None]) -> Iterable[Finding]:
    thresholds = bench.thresholds
    constant, passed = figures.get("constant_groups"), figures.get("pass_rate")
    if constant is None or passed is None:
        yield Finding(
            "fail",
            "none of the policy's answers could be compared",
            "see the contract stage: nothing is scored",
        )
        return
    if constant > thresholds.constant_fail:
        useful = figures["useful_groups_per_step"]
        per_step = f", about {useful:.1f} useful groups a step" if useful is not None else ""
        yield Finding(
            "fail",
            f"in {constant:.0%} of the groups all answers score the same{per_step}",
            "give partial credit, easier or harder tasks, a larger group, or a higher temperature: "
            "groups without variance teach nothing",
        )
    if passed < thresholds.pass_low_warn:
        yield Finding(
            "warn",
            f"{passed:.1%} of the policy's answers pass",
            "start with easier tasks, give partial credit, or fine-tune on good answers first",
        )
    elif passed > thresholds.pass_high_warn:
        yield Finding(
            "warn",
            f"{passed:.1%} of the policy's answers pass already",
            "take harder tasks or a stricter evaluator; there is little left to learn here",
        )
    truncated = figures["truncated"] or 0.0
    if truncated > thresholds.truncated_warn:
        yield Finding(
            "warn",
            f"{truncated:.0%} of the answers were cut by a limit",
            "raise rollout.max_new_tokens, ask for brevity in the prompt, or set rollout.truncated: mask",
        )
