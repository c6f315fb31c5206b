"""Tests an evaluator before a model trains on it: one file a stage, each of which says what it looked for.

A stage takes a `Bench` (the evaluator, what it is tried on, and a way to score) and returns a `StageResult`.
Stages know nothing of runners, engines or files: `rft/examine.py` brings them together.
"""
