"""From a finished rollout to a score that training may trust.

`runner` drives one evaluator; `attribution` says whose fault an exception was; `verdict` turns what an
evaluator returned into a `Score`; `health` stops a run whose evaluator is broken; `compose` weighs several
evaluators; `blocking` is `rft.score`.
"""
