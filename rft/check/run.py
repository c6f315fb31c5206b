"""The stages in their order, and running some or all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from rft.check.adversarial import adversarial
from rft.check.bench import Bench
from rft.check.contract import contract
from rft.check.controls import controls
from rft.check.discrimination import discrimination
from rft.check.findings import StageResult
from rft.check.golden import golden
from rft.check.human import human
from rft.check.invariance import invariance
from rft.check.operations import operations
from rft.check.policy import policy
from rft.check.repeatability import repeatability
from rft.check.shortcuts import shortcuts

Stage = Callable[[Bench], Awaitable[StageResult]]

STAGES: dict[str, Stage] = {
    "contract": contract,
    "golden": golden,
    "discrimination": discrimination,
    "repeatability": repeatability,
    "adversarial": adversarial,
    "invariance": invariance,
    "shortcuts": shortcuts,
    "human": human,
    "policy": policy,
    "operations": operations,
    "controls": controls,
}


async def run_stages(
    bench: Bench, names: Sequence[str] = tuple(STAGES), on_stage: Callable[[str], None] = lambda name: None
) -> list[StageResult]:
    """Results of the named stages, in the order of `STAGES`. `on_stage` is told which one begins."""
    results = []
    for name, stage in STAGES.items():
        if name in names:
            on_stage(name)
            began = time.perf_counter()
            found = await stage(bench)
            # NaN and infinities, as of an interval over a single task, say that there is no figure.
            figures = {
                key: value if value is not None and math.isfinite(value) else None
                for key, value in found.figures.items()
            }
            results.append(replace(found, figures=figures, seconds=time.perf_counter() - began))
    return results
