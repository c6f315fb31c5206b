"""From a finished rollout to a score that training may trust.

`runner` drives one evaluator. One call goes through `drive` (limits and retries), `calls` (the loop,
`threads` or `processes`), `attribution` (whose fault an exception was) and `verdict` (what an answer means).
`origin` is one service, however many evaluators call it: its slots and pace (`limits`), its `breaker`.
`cache` knows the verdicts on identical rollouts. `batching` sends rollouts off together; `settling` and
`tournament` judge whole groups; `compose` makes one evaluator of several; `blocking` is `rft.score`.

During a run `supervision` asks `health` (how much fails), `selective` (what fails), `canaries` (do golden
cases still hold) and `budget` (can it be paid), and says when to stop; `events` has the sentences.
"""
