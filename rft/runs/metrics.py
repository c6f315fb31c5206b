"""Every metric in one table: what it counts, where it should be, and what to set when it is not there.

`rft runs metrics` prints this table beside a run's values, and the live view says the action when a value
leaves its range for the first time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One key of metrics.jsonl.

    >>> Metric("ess", "share", "evenness of weights", low=0.5, action="train less a batch").healthy(0.4)
    False
    """

    key: str
    """`reward/part/<name>` stands for every key that starts with `reward/part/`."""
    unit: str
    meaning: str
    low: float | None = None
    """Smallest healthy value; None where there is no such thing."""
    high: float | None = None
    """Largest healthy value."""
    action: str = ""
    """What leaving the range means and what to set."""

    def healthy(self, value: float | None) -> bool:
        """Whether a value is in range. None, how a NaN reads back from metrics.jsonl, never is."""
        if value is None or value != value:
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def range(self) -> str:
        """The healthy range in words; empty when every number is."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{self.low:g} or more"
        if self.high is None:
            return ""
        return f"{self.high:g} or less" if self.high else "0"


METRICS = (
    Metric("reward/mean", "score", "mean reward of this step's scored rollouts"),
    Metric("reward/std", "score", "standard deviation of those rewards"),
    Metric(
        "reward/group_std",
        "score",
        "standard deviation of rewards within a group, mean of the groups: what advantages are made of",
    ),
    Metric("reward/part/<name>", "score", "mean of one part of a composed reward"),
    Metric("reward/part_std/<name>", "score", "standard deviation of that part; at 0 it teaches nothing"),
    Metric("heldout/mean", "score", "mean reward on held-out tasks: the number to judge a run by"),
    Metric("heldout/low", "score", "lower end of its 95 % interval"),
    Metric("heldout/high", "score", "upper end of its 95 % interval"),
    Metric(
        "heldout/gap",
        "score",
        "training reward of the last 10 steps less held-out reward. Training samples at rollout.temperature "
        "and held-out answers at eval.temperature (greedy when unset), so a steady difference says little, "
        "mostly below 0; one that grows is learning by heart",
    ),
    Metric(
        "heldout/gap_in_std",
        "std",
        "that gap in standard deviations of the training rewards",
        high=1,
        action="training tasks are learned by heart, or the reward is gamed in a way that held-out tasks do "
        "not allow; add tasks to data.train, stop earlier, or set algorithm.beta",
    ),
    Metric(
        "groups/used",
        "groups",
        "groups that gave a gradient",
        low=1,
        action="no group had two different rewards, so nothing was learned; make tasks easier or harder, "
        "raise rollout.group_size, or give partial credit",
    ),
    Metric(
        "groups/constant", "groups", "groups whose rewards were all equal; they teach nothing and are skipped"
    ),
    Metric(
        "groups/too_few",
        "groups",
        "groups dropped because too few members had a score",
        high=0,
        action="evaluations fail; see fail/<kind>, and rollout.min_valid for how many members must be scored",
    ),
    Metric(
        "groups/refilled",
        "groups",
        "groups that taught nothing and were replaced by fresh ones; paid for, and not trained on",
    ),
    Metric(
        "groups/missing",
        "groups",
        "groups that teach nothing and could not be replaced within rollout.refill_rounds",
        high=0,
        action="tasks are too easy or too hard; set data.curriculum, change the tasks, raise "
        "rollout.group_size, or give partial credit",
    ),
    Metric("groups/cut", "groups", "groups begun and not needed, as others finished first"),
    Metric(
        "rollout/staleness",
        "steps",
        "how many steps the weights that sampled were behind those updated, mean",
    ),
    Metric(
        "rollout/stale_frac",
        "share",
        "rollouts thrown away because they were older than rollout.max_staleness",
        high=0.2,
        action="work is done in vain; raise rollout.max_staleness, or lower rollout.oversample",
    ),
    Metric("curriculum/easy_frac", "share", "tasks asked so far that were last above data.curriculum.high"),
    Metric("curriculum/hard_frac", "share", "tasks asked so far that were last below data.curriculum.low"),
    Metric(
        "curriculum/between_frac",
        "share",
        "tasks asked so far that were last neither: those that teach",
        low=0.1,
        action="hardly any task teaches any more; take harder or easier ones, or end the run",
    ),
    Metric("rollout/tokens_per_s", "tokens/s", "sampled tokens per second of rollout"),
    Metric("rollout/length_mean", "tokens", "mean sampled tokens of a rollout"),
    Metric("rollout/length_max", "tokens", "sampled tokens of the longest rollout"),
    Metric(
        "rollout/length_better",
        "tokens",
        "mean length of rollouts with more reward than their group's mean; above length_worse, training "
        "makes answers longer",
    ),
    Metric("rollout/length_worse", "tokens", "mean length of rollouts with less reward than that"),
    Metric(
        "rollout/truncated_frac",
        "share",
        "rollouts cut by a limit instead of ended by the model",
        high=0.2,
        action="answers are cut off; raise rollout.max_new_tokens, or reward short answers",
    ),
    Metric("eval/ok", "rollouts", "evaluations that gave a number"),
    Metric("eval/skipped", "rollouts", "evaluations the evaluator declined; masked"),
    Metric("eval/failed", "rollouts", "evaluations that failed; masked, never a number"),
    Metric("fail/<kind>", "rollouts", "failed evaluations of one kind (timeout, rate_limited, bug, ...)"),
    Metric("eval/cached", "rollouts", "evaluations that an identical rollout had already"),
    Metric("eval/retries", "calls", "attempts that had to be repeated"),
    Metric("time/evaluation_p50_s", "s", "half of the evaluations took less; cached ones left out"),
    Metric("time/evaluation_p95_s", "s", "one evaluation in twenty took longer"),
    Metric("cost/usd", "USD", "what evaluations have cost so far"),
    Metric(
        "failing/rate",
        "share",
        "failed evaluations among the last 512",
        high=0.05,
        action="the evaluator fails often; see fail/<kind> and the failure reasons in rollouts/; "
        "train.max_failure_rate stops the run",
    ),
    Metric(
        "failing/with_length",
        "correlation",
        "rank correlation of failing with length: 0 is neutral, above it long answers fail",
        low=-0.3,
        high=0.3,
        action="failures are not random, so masking favours some lengths; raise the evaluator's timeout, or "
        "give such answers a low score where the answer is at fault",
    ),
    Metric(
        "failing/with_part/<name>",
        "correlation",
        "rank correlation of failing with one part of the score",
        low=-0.3,
        high=0.3,
        action="failures go with good or bad answers; look at the failure reasons in rollouts/",
    ),
    Metric(
        "failing/rise",
        "share",
        "failure rate of the last 512 evaluations less that of the first 512",
        high=0.05,
        action="the policy may be moving towards answers that cannot be judged, which are masked instead of "
        "pushed down; let the evaluator score them low",
    ),
    Metric(
        "golden/held",
        "share",
        "golden cases that had the score they should have, when scored again",
        low=1,
        action="the evaluator is broken or has changed; see golden_cases in events.jsonl; "
        "scoring.canaries_bad stops the run",
    ),
    Metric("golden/drifted", "cases", "golden cases with another score than expected: the service changed"),
    Metric("time/paused_s", "s", "evaluations held back because a service was away; ended pauses only"),
    Metric(
        "advantage/mean",
        "",
        "mean advantage of the trained tokens; above 0 the better answers are the longer ones",
    ),
    Metric("advantage/std", "", "standard deviation of those; near 0 there is next to nothing to learn from"),
    Metric("advantage/max_abs", "", "the largest advantage, of either sign"),
    Metric("loss", "nats", "the loss as it was minimised; near zero by construction, no sign of quality"),
    Metric(
        "grad_norm",
        "norm",
        "length of the gradient before clipping",
        high=100,
        action="the update is unstable; lower train.learning_rate or raise train.prompts_per_step",
    ),
    Metric(
        "entropy",
        "nats/token",
        "how undecided the policy is",
        low=0.01,
        action="answers have become all alike and stop teaching; raise rollout.temperature or "
        "algorithm.epsilon_high, or lower train.learning_rate",
    ),
    Metric(
        "entropy_coef",
        "",
        "weight of the entropy bonus; with algorithm.entropy.target it counts only at and below the target",
    ),
    Metric(
        "kl/sampler_k1",
        "nats/token",
        "KL of the policy from the sampler, plain estimate; noisy, may be negative",
    ),
    Metric(
        "kl/sampler_k3",
        "nats/token",
        "KL of the policy from the sampler, low-variance estimate (Schulman 2020)",
        high=0.1,
        action="the policy has moved far from what sampled the data; lower train.learning_rate, "
        "algorithm.num_iterations or algorithm.minibatches",
    ),
    Metric(
        "mismatch/mean_abs",
        "nats",
        "mean |log-probability by the engine - by the trainer| under the same weights",
        high=0.2,
        action="engine and trainer disagree; set engine.dtype to the model's, or read the parity events",
    ),
    Metric("mismatch/max_abs", "nats", "the largest such difference"),
    Metric(
        "mismatch/weight_mean", "ratio", "mean weight of a token after that correction; 1 where none is made"
    ),
    Metric(
        "mismatch/masked_frac",
        "share",
        "tokens left out because engine and trainer disagree too much",
        high=0.2,
        action="much of the data is thrown away; set engine.dtype: float32, or raise "
        "algorithm.mismatch.clip_max",
    ),
    Metric(
        "mismatch/off_policy_frac",
        "share",
        "tokens left out because their bad completion is above algorithm.mismatch.off_policy_threshold",
        high=0.3,
        action="many bad answers no longer teach; raise the threshold, or lower train.learning_rate, "
        "algorithm.num_iterations or rollout.max_staleness",
    ),
    Metric(
        "ratio/mean",
        "ratio",
        "mean probability ratio, policy now to policy that sampled",
        low=0.9,
        high=1.1,
        action="passes over one batch drift apart; lower algorithm.num_iterations or train.learning_rate",
    ),
    Metric(
        "ratio/max",
        "ratio",
        "the largest such ratio of a token, or of a completion where algorithm.importance_level says so",
        high=10,
        action="a few tokens moved far in one update; lower train.learning_rate, algorithm.num_iterations or "
        "algorithm.minibatches, or set algorithm.delta",
    ),
    Metric(
        "clip/low_frac",
        "share",
        "tokens at the lower clip of the ratio",
        high=0.3,
        action="much of the gradient is clipped away; lower train.learning_rate or algorithm.num_iterations",
    ),
    Metric(
        "clip/high_frac",
        "share",
        "tokens at the upper clip of the ratio",
        high=0.3,
        action="much of the gradient is clipped away; lower train.learning_rate, or raise "
        "algorithm.epsilon_high",
    ),
    Metric(
        "ess",
        "share",
        "effective sample size of the importance weights, as a share of the samples",
        low=0.5,
        action="a few samples decide the update; lower algorithm.num_iterations or engine mismatch",
    ),
    Metric(
        "kl/reference", "nats/token", "KL of the policy from the starting model, which algorithm.beta weighs"
    ),
    Metric("examples/token_accuracy", "share", "sft: tokens of the answers that the policy finds likeliest"),
    Metric("examples/accuracy", "share", "dpo: pairs whose better answer has the higher implicit reward"),
    Metric("examples/margin", "nats", "dpo, kto: implicit reward of good answers less that of bad ones"),
    Metric("examples/good", "nats", "dpo, kto: implicit reward of good answers, beta times the log-ratio"),
    Metric("examples/bad", "nats", "dpo, kto: implicit reward of bad answers"),
    Metric("examples/good_logprob", "nats", "dpo, kto: log-probability of good answers, by the policy"),
    Metric("examples/bad_logprob", "nats", "dpo, kto: log-probability of bad answers, by the policy"),
    Metric(
        "critic/explained_variance",
        "share",
        "of the returns' variance, what the critic foresaw: 1 is all, 0 no more than a constant would",
        low=-0.5,
        action="the critic misleads more than it helps; raise algorithm.critic.warmup_steps, or lower "
        "algorithm.critic.learning_rate",
    ),
    Metric("critic/loss", "score^2", "half the squared error of the values, clipped"),
    Metric(
        "critic/clip_frac",
        "share",
        "values that moved too far in one update for their loss to have a gradient",
        high=0.5,
        action="the critic is held back; raise algorithm.critic.epsilon, or lower its learning_rate",
    ),
    Metric("critic/value_mean", "score", "mean value, before the update"),
    Metric("critic/returns_mean", "score", "mean of what the values should have been"),
    Metric("update/steps", "steps", "optimizer steps taken"),
    Metric(
        "update/skipped",
        "steps",
        "optimizer steps left out because the loss or the gradient was not finite",
        high=0,
        action="the update is unstable; lower train.learning_rate or set model.dtype: float32; the batch is "
        "in failed/, and train.max_bad_steps in a row stop the run",
    ),
    Metric("learning_rate", "", "the learning rate of this step, after the schedule"),
    Metric("time/rollout_s", "s", "sampling and scoring, overlapped"),
    Metric("time/update_s", "s", "forward, backward, optimizer"),
    Metric("time/forward_s", "s", "of the update: forward passes"),
    Metric("time/backward_s", "s", "of the update: backward passes"),
    Metric("time/optimizer_s", "s", "of the update: clipping and the optimizer"),
    Metric("time/waited_s", "s", "of the update before: waiting for these rollouts (rollout.one_step_off)"),
    Metric("time/publish_s", "s", "making the engine serve the new weights"),
    Metric("time/eval_s", "s", "held-out evaluation"),
    Metric("time/checkpoint_s", "s", "waiting for a checkpoint, which is written while the run goes on"),
    Metric("time/step_s", "s", "the whole step"),
    Metric("tokens/trained", "tokens", "sampled tokens that entered the loss"),
    Metric("memory/rss_gb", "GB", "main memory this process holds"),
    Metric(
        "parity/mean",
        "nats",
        "mean |log-probability by the engine - by the trainer| on a probe",
        high=0.2,
        action="the engine may not serve what is trained; see engine.publish and the parity events",
    ),
    Metric("parity/max", "nats", "the largest such difference"),
    Metric("weight_version", "", "version of the weights served after this step"),
)
_BY_KEY = {metric.key: metric for metric in METRICS}
_FAMILIES = {metric.key.partition("<")[0]: metric for metric in METRICS if "<" in metric.key}


def find_metric(key: str) -> Metric | None:
    """The table's row for a key of metrics.jsonl; None for a user's own."""
    if key in _BY_KEY:
        return _BY_KEY[key]
    return next((metric for prefix, metric in _FAMILIES.items() if key.startswith(prefix)), None)


def in_order(keys: Iterable[str]) -> list[str]:
    """Keys as the table has them, members of a family by name, a user's own last.

    >>> in_order(["my/own", "loss", "fail/timeout", "fail/bug"])
    ['fail/bug', 'fail/timeout', 'loss', 'my/own']
    """
    place = {metric.key: number for number, metric in enumerate(METRICS)}

    def where(key: str) -> tuple[int, str]:
        metric = find_metric(key)
        return (len(place) if metric is None else place[metric.key], key)

    return sorted(keys, key=where)


def warnings(rows: Sequence[Mapping[str, float | None]]) -> list[str]:
    """What left its healthy range in a run: how often, when last, what it means and what to set.

    Args:
        rows: of metrics.jsonl, oldest first.
    """
    outside: dict[str, list[Mapping[str, float | None]]] = {}
    for row in rows:
        for key in out_of_range(row):
            outside.setdefault(key, []).append(row)
    return [
        f"{_shown(key, found[-1][key])} at step {found[-1]['step']}, and outside in {len(found)} of "
        f"{sum(key in row for row in rows)} steps: {_known(key).action}"
        for key, found in ((key, outside[key]) for key in in_order(outside))
    ]


def out_of_range(values: Mapping[str, float | None]) -> dict[str, str]:
    """For each key outside its healthy range: what it is, and what to do.

    >>> out_of_range({"rollout/truncated_frac": 0.5})["rollout/truncated_frac"][:52]
    'rollout/truncated_frac is 0.5 (healthy: 0.2 or less)'
    """
    found = {}
    for key, value in values.items():
        metric = find_metric(key)
        if metric is None or not metric.range or metric.healthy(value):
            continue
        found[key] = f"{_shown(key, value)}: {metric.action}"
    return found


def _shown(key: str, value: float | None) -> str:
    shown = "not a finite number" if value is None or value != value else f"{value:g}"
    return f"{key} is {shown} (healthy: {_known(key).range})"


def _known(key: str) -> Metric:
    metric = find_metric(key)
    assert metric is not None, f"{key} has no row"
    return metric
