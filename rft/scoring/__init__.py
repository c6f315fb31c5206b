"""From a finished rollout to a score that training may trust.

`runner` drives one evaluator. One call goes through `drive` (limits and retries), `calls` (the loop,
`threads` or `processes`), `attribution` (whose fault an exception was) and `verdict` (what an answer means).
`batching` sends rollouts off together; `settling` and `tournament` judge whole groups; `compose` makes one
evaluator of several; `health` stops a run whose evaluator is broken; `blocking` is `rft.score`.
"""
