"""Every installed evaluator, in every configuration that its golden cases are about, passes its own check."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from rft.check.probes import CONTENT, PROBES
from rft.examine import examine

STAGES = ["contract", "golden", "discrimination", "repeatability", "adversarial", "invariance", "operations"]
CONTROLS = {"constant", "random"}
"""Evaluators that know nothing. They are there to fail."""


def configurations():
    for point in entry_points(group="rft.evaluators"):
        kind = point.load()
        options = {repr(case.config): case.config or {} for case in kind.cases}
        for number, config in enumerate(options.values()):
            yield pytest.param(kind, config, id=f"{point.name}-{number}")


@pytest.mark.parametrize(("kind", "options"), configurations())
def test_it_passes_adversarial_probes_included(kind, options):
    report = examine(kind(**options), stages=STAGES)
    if kind.name in CONTROLS:
        assert "fail" in {stage.outcome for stage in report.stages} or len(kind.cases) < 3
        return
    failed = [
        str(finding) for stage in report.stages for finding in stage.findings if finding.level == "fail"
    ]
    assert failed == []


@pytest.mark.parametrize("point", entry_points(group="rft.evaluators"), ids=lambda point: point.name)
def test_what_it_says_it_is_blind_to_are_probes(point):
    assert point.load().blind_to <= {CONTENT, *PROBES}
