"""One step's numbers under the names that `rft/runs/metrics.py` explains."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rft.engine.base import Published
from rft.heldout import Judged
from rft.learn.batch import Batch
from rft.learn.update import UpdateStats
from rft.process import rss_gb
from rft.rollout.selection import Supplied
from rft.types import Group

# Ours on the right: the learning room speaks of tensors, the table of metrics to people.
_FROM_UPDATE = {
    "entropy": "entropy",
    "ratio_mean": "ratio/mean",
    "ratio_max": "ratio/max",
    "clip_low": "clip/low_frac",
    "clip_high": "clip/high_frac",
    "sampler_kl_k1": "kl/sampler_k1",
    "sampler_kl_k3": "kl/sampler_k3",
    "sampler_delta_mean": "mismatch/mean_abs",
    "sampler_delta_max": "mismatch/max_abs",
    "mismatch_clipped": "mismatch/masked_frac",
    "mismatch_weight_mean": "mismatch/weight_mean",
    "off_policy_dropped": "mismatch/off_policy_frac",
    "entropy_coef": "entropy_coef",
    "ess": "ess",
    "ref_kl": "kl/reference",
    "value_loss": "critic/loss",
    "value_clip": "critic/clip_frac",
    "value_mean": "critic/value_mean",
    "returns_mean": "critic/returns_mean",
    "explained_variance": "critic/explained_variance",
}
_RECENT = 10
"""Steps whose mean training reward is held against the held-out one."""


def step_metrics(
    supplied: Supplied,
    batch: Batch,
    update: UpdateStats,
    published: Published,
    seconds: Mapping[str, float],
) -> dict[str, float]:
    """What metrics.jsonl holds for every step.

    Args:
        batch: with its credit.
        seconds: by phase, "rollout", "update", "publish", "step".
    """
    metrics = rollout_metrics(supplied.played, supplied.seconds) | supplied.metrics | _advantages(batch)
    # Of all that was played: the groups that are left when useless ones are replaced are not the policy.
    rewards = [float(score) for group in supplied.played for score in group.scores if score.ok]
    if rewards:
        metrics |= {"reward/mean": statistics.fmean(rewards), "reward/std": statistics.pstdev(rewards)}
    metrics |= {
        "groups/used": batch.stats.groups_used,
        "groups/constant": batch.stats.groups_constant,
        "groups/too_few": batch.stats.groups_too_few,
        "loss": update.loss,
        "grad_norm": update.grad_norm,
        "learning_rate": update.learning_rate,
        "update/steps": update.steps,
        "update/skipped": update.steps_skipped,
        "tokens/trained": batch.stats.policy_tokens,
        "memory/rss_gb": rss_gb(),
        "weight_version": published.version,
        "time/rollout_s": seconds["rollout"],
        "time/update_s": seconds["update"],
        "time/publish_s": seconds["publish"],
        "time/step_s": seconds["step"],
        "time/forward_s": update.forward_s,
        "time/backward_s": update.backward_s,
        "time/optimizer_s": update.optimizer_s,
    }
    metrics |= {
        ours: update.metrics[theirs] for theirs, ours in _FROM_UPDATE.items() if theirs in update.metrics
    }
    return {key: float(value) for key, value in metrics.items() if not math.isnan(value)}


def heldout_metrics(judged: Judged, rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """A held-out evaluation, and how far training has run ahead of it.

    Args:
        rows: metrics of the steps so far, the newest last.
    """
    metrics = judged.metrics()
    recent = [row for row in rows if row.get("reward/mean") is not None][-_RECENT:]
    if "heldout/mean" in metrics and recent:
        gap = statistics.fmean(row["reward/mean"] for row in recent) - metrics["heldout/mean"]
        metrics["heldout/gap"] = gap
        # Early on the gap is that between sampled and greedy answers, no sign of learning by heart.
        spread = statistics.fmean(row["reward/std"] for row in recent)
        if spread and len(recent) == _RECENT:
            metrics["heldout/gap_in_std"] = gap / spread
    return metrics


def rollout_metrics(groups: Sequence[Group], seconds: float) -> dict[str, float]:
    """What rollouts and scores say, before anything is trained on."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    scores = [score for group in groups for score in group.scores]
    tokens = sum(rollout.num_tokens for rollout in rollouts)
    statuses = Counter(score.status for score in scores)
    metrics = {
        "rollout/tokens_per_s": tokens / seconds,
        "rollout/length_mean": tokens / len(rollouts),
        "rollout/length_max": max(rollout.num_tokens for rollout in rollouts),
        "rollout/truncated_frac": sum(rollout.truncated for rollout in rollouts) / len(rollouts),
        "eval/ok": statuses["ok"],
        "eval/skipped": statuses["skipped"] + statuses["not_applicable"],
        "eval/failed": statuses["failed"],
    }
    asked = sorted(score.latency_s for score in scores if score.attempts)
    metrics |= {
        "eval/cached": sum(score.cached for score in scores),
        "eval/retries": sum(max(0, score.attempts - 1) for score in scores),
    }
    if asked:
        metrics |= {
            "time/evaluation_p50_s": asked[len(asked) // 2],
            "time/evaluation_p95_s": asked[int(len(asked) * 0.95)],
        }
    kinds = Counter(score.failure.kind for score in scores if score.failure is not None)
    metrics |= {f"fail/{kind}": count for kind, count in kinds.items()}
    parts: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        for name, part in score.parts.items():
            if part.ok:
                parts[name].append(float(part))
    metrics |= {f"reward/part/{name}": statistics.fmean(values) for name, values in parts.items()}
    metrics |= {f"reward/part_std/{name}": statistics.pstdev(values) for name, values in parts.items()}
    return metrics | _within_groups(groups)


def _within_groups(groups: Sequence[Group]) -> dict[str, float]:
    """What comparing members shows: the spread that is learned from, and whether length goes with it."""
    spreads: list[float] = []
    better: list[int] = []
    worse: list[int] = []
    for group in groups:
        pairs = zip(group.rollouts, group.scores, strict=True)
        scored = [(rollout.num_tokens, float(score)) for rollout, score in pairs if score.ok]
        if not scored:
            continue
        rewards = [reward for _, reward in scored]
        spreads.append(statistics.pstdev(rewards))
        mean = statistics.fmean(rewards)
        better += [length for length, reward in scored if reward > mean and spreads[-1] > 0]
        worse += [length for length, reward in scored if reward < mean and spreads[-1] > 0]
    metrics = {"reward/group_std": statistics.fmean(spreads)} if spreads else {}
    if better and worse:
        metrics["rollout/length_better"] = statistics.fmean(better)
        metrics["rollout/length_worse"] = statistics.fmean(worse)
    return metrics


def _advantages(batch: Batch) -> dict[str, float]:
    """Of the tokens that are trained on; none where nothing is."""
    advantages_M = batch.advantages_N[batch.trains_S[batch.sequence_N]]
    if not advantages_M.numel():
        return {}
    return {
        "advantage/mean": advantages_M.mean().item(),
        "advantage/std": advantages_M.std(correction=0).item(),
        "advantage/max_abs": advantages_M.abs().max().item(),
    }
