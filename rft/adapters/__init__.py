"""Bridges to other people's evaluators, both ways. None of their packages is needed to import this one.

In, each an evaluator with the same `with: {function: "module:name"}`:

    trl             a reward function of TRL's trainers
    verifiers       a rubric, or a task with its rewards
    eval_protocol   an `@evaluation_test` function
    inspect         a scorer of Inspect

Out: `as_trl_reward` makes any evaluator a TRL reward function. `openai_import` translates OpenAI's graders.

Where the other library turns a failure into 0.0, these do not: its functions are called without that
library's own net under them, and whatever they raise is attributed like anything an evaluator raises.
"""

from rft.adapters.as_trl import as_trl_reward

__all__ = ["as_trl_reward"]
