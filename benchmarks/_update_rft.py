"""rft's side of update.py: measure, credit and update of one batch, stopped before each until asked for."""

from __future__ import annotations

import time
from argparse import Namespace

from _common import Peak, Turns

_turns = Turns()  # before a library prints

from _update_data import arguments, groups  # noqa: E402  # after stdout is taken

from rft.engine.open import prepare_process  # noqa: E402

prepare_process()  # before torch is imported, as in a run

import torch  # noqa: E402

from rft.learn.batch import to_batch  # noqa: E402
from rft.learn.credit import assign_credit  # noqa: E402
from rft.learn.fused import fuse  # noqa: E402
from rft.learn.probe import probe  # noqa: E402
from rft.learn.update import Updater, build_optimizer  # noqa: E402
from rft.models.policy import Policy  # noqa: E402
from rft.models.source import locate  # noqa: E402
from rft.process import HeldMemory, rss_gb  # noqa: E402
from rft.recipe.schema import AlgorithmSpec, ModelSpec, TrainSpec  # noqa: E402
from rft.types import Group, Rollout, Score, Task, Turn  # noqa: E402


def main() -> None:
    """Builds what `rft.assemble` builds around a model, without an engine."""
    options = arguments().parse_args()
    memory = HeldMemory()
    idle_gb = rss_gb()
    torch.manual_seed(0)
    spec = ModelSpec(source=options.model, gradient_checkpointing=options.checkpointing)
    policy = Policy.load(spec, locate(options.model), dtype="bfloat16")
    fuse(policy.model, recompute_mlp=False)
    algorithm = AlgorithmSpec.model_validate({"mismatch": {"mode": "off"}})
    train = TrainSpec.model_validate({"learning_rate": 2e-5, "optimizer": {"master_weights": False}})
    longest = options.prompt + options.completion
    updater = Updater(
        policy.model,
        build_optimizer(policy.model, algorithm, train),
        algorithm,
        train,
        temperature=1.0,
        max_completion_tokens=options.completion,
        abilities=probe(policy.model, share_prompts=True, longest=longest),
    )
    scored = _groups(options, policy.model.config.vocab_size)
    peak = Peak()
    while True:
        _turns.wait()
        peak.reset()
        began = time.perf_counter()
        batch = to_batch(scored, mask_truncated=False, min_valid=0.0)
        batch = assign_credit(updater.measure(batch), algorithm)
        stats = updater.update(batch)
        memory.settle()
        seconds = time.perf_counter() - began
        _turns.say(seconds=seconds, memory_gb=peak.read() - idle_gb, gradient=stats.grad_norm)


def _groups(options: Namespace, vocabulary: int) -> list[Group]:
    made = []
    for number, answers in enumerate(groups(options, vocabulary)):
        task = Task(f"{number}", "")
        rollouts = [
            Rollout(
                f"{number}/{index}",
                task.id,
                task,
                (),
                (Turn(tuple(answers.prompt), tuple(ids), (-2.0,) * len(ids), "stop"),),
            )
            for index, ids in enumerate(answers.completions)
        ]
        made.append(Group(task.id, task, rollouts, [Score(reward) for reward in answers.rewards]))
    return made


if __name__ == "__main__":
    main()
