"""One step's numbers under the names that `rft/runs/metrics.py` explains."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rft.engine.base import Published
from rft.learn.batch import BatchStats
from rft.learn.update import UpdateStats
from rft.process import rss_gb
from rft.types import Group

# Ours on the right: the learning room speaks of tensors, the table of metrics to people.
_FROM_UPDATE = {
    "entropy": "entropy",
    "ratio_mean": "ratio/mean",
    "clip_low": "clip/low_frac",
    "clip_high": "clip/high_frac",
    "sampler_kl_k1": "kl/sampler_k1",
    "sampler_kl_k3": "kl/sampler_k3",
    "sampler_delta_mean": "mismatch/mean_abs",
    "sampler_delta_max": "mismatch/max_abs",
    "mismatch_clipped": "mismatch/masked_frac",
    "ess": "ess",
    "ref_kl": "kl/reference",
}


def step_metrics(
    groups: Sequence[Group],
    batch: BatchStats,
    update: UpdateStats,
    published: Published,
    seconds: Mapping[str, float],
) -> dict[str, float]:
    """Everything that metrics.jsonl holds for one step.

    Args:
        seconds: by phase, "rollout", "update", "step".
    """
    metrics = rollout_metrics(groups, seconds["rollout"])
    metrics |= {
        "reward/mean": batch.reward_mean,
        "reward/std": batch.reward_std,
        "groups/used": batch.groups_used,
        "groups/constant": batch.groups_constant,
        "groups/too_few": batch.groups_too_few,
        "loss": update.loss,
        "grad_norm": update.grad_norm,
        "learning_rate": update.learning_rate,
        "update/steps": update.steps,
        "update/skipped": update.steps_skipped,
        "tokens/trained": batch.policy_tokens,
        "memory/rss_gb": rss_gb(),
        "weight_version": published.version,
        "time/publish_s": published.seconds,
        "time/forward_s": update.forward_s,
        "time/backward_s": update.backward_s,
        "time/optimizer_s": update.optimizer_s,
        **{f"time/{phase}_s": value for phase, value in seconds.items()},
    }
    metrics |= {
        ours: update.metrics[theirs] for theirs, ours in _FROM_UPDATE.items() if theirs in update.metrics
    }
    return {key: float(value) for key, value in metrics.items() if not math.isnan(value)}


def rollout_metrics(groups: Sequence[Group], seconds: float) -> dict[str, float]:
    """What rollouts and scores say, before anything is trained on."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    scores = [score for group in groups for score in group.scores]
    tokens = sum(rollout.num_tokens for rollout in rollouts)
    statuses = Counter(score.status for score in scores)
    metrics = {
        "rollout/tokens_per_s": tokens / seconds,
        "rollout/length_mean": tokens / len(rollouts),
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
    return metrics | {f"reward/part/{name}": sum(values) / len(values) for name, values in parts.items()}
