"""The catalogue of evaluators, imported as `rft.evaluators`. One idea per file."""
