"""Somebody's API as an evaluator, and any evaluator as an API.

`client` sends one request and raises what `faults` says its answer means; `evaluator` makes requests of
rollouts and scores of answers, by default in the language of `wire`; `serve`, a page, speaks the other end.
"""
