"""Widths in turns: planned by predicted errors, probed at what was planned, and planned again."""

from __future__ import annotations

from collections.abc import Callable

from shrinkc.api import Evidence, RuntimeAdapter
from shrinkc.calibrating import probed_at
from shrinkc.evidence.data import Data
from shrinkc.log import Progress
from shrinkc.opening import Opened
from shrinkc.planning import Planned, follows_errors
from shrinkc.recipe import Recipe

TURNS = 2
"""How often groups are probed again, at the widths of the last plan, and the plan is made anew.  What half of a group costs
says little of what nine tenths of it cost."""


def planned_in_turns(
    opened: Opened,
    recipe: Recipe,
    evidence: Evidence | None,
    calibration: Data | None,
    runtime: RuntimeAdapter,
    progress: Progress,
    *,
    plan: Callable[[Evidence | None], Planned],
) -> Planned:
    """Plan whose groups were probed at the widths they have in it, or nearly; the first one where errors choose nothing.

    ``plan`` shows its own stages.
    """
    planned = plan(evidence)
    if evidence is None or calibration is None or not follows_errors(recipe):
        return planned
    for _ in range(TURNS):
        evidence = probed_at(planned.plan, evidence, opened, calibration, runtime, progress)
        planned = plan(evidence)
    return planned
