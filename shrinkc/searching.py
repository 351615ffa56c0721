"""The largest cut whose measured drop stays within what was allowed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.api import RunConfig, RuntimeAdapter, Session
from shrinkc.calibrating import Samples
from shrinkc.errors import BudgetError, RecipeError
from shrinkc.evidence import quality as evidence_quality
from shrinkc.evidence.batching import batch_size
from shrinkc.evidence.data import Data
from shrinkc.evidence.quality import Quality
from shrinkc.log import Progress
from shrinkc.measuring import QUALITY_BATCH
from shrinkc.opening import Opened
from shrinkc.plan import Plan
from shrinkc.planning import Planned
from shrinkc.recipe import Recipe

SMALLEST_SHARE, LARGEST_SHARE = 0.05, 0.98
"""Shares of the MACs between which the cut is looked for."""

STEPS = 6
"""Halvings of that range: the cut is found to one and a half percent of the MACs."""


def largest_cut(
    opened: Opened,
    recipe: Recipe,
    samples: Samples,
    runtime: RuntimeAdapter,
    progress: Progress,
    *,
    planned_for: Callable[[Recipe], Planned],
    built: Callable[[Plan], ir.Model],
) -> Planned:
    """Plan with the fewest MACs found whose drop, measured on held-out samples after compensation, is within the limit.

    ``built`` carries a plan out, compensation included.

    Raises
    ------
    RecipeError
        There is no real data to measure a drop on.
    BudgetError
        Even the smallest cut drops more.
    """
    limit = recipe.max_drop
    if samples.evaluation is None or limit is None:
        raise RecipeError("a drop can only be measured on data", where="--max-drop", hint="give --data or --eval-data")
    judged = samples.evaluation
    dense = runtime.load(shrinkc_ir.loadable(opened.model), RunConfig(threads=0))

    def measured_drop(plan: Plan) -> float:
        return drop_of(_quality(dense, built(plan), judged, runtime, opened))

    best: Planned | None = None
    low, share, high = SMALLEST_SHARE, LARGEST_SHARE, LARGEST_SHARE
    for _ in range(STEPS + 1):
        with progress.stage(f"trying {share:.1%} of the MACs"):
            plan = _planned(planned_for, replace(recipe, max_drop=None, macs=f"{100 * share:.4g}%"))
            drop = float("inf") if plan is None else measured_drop(plan.plan)
        if drop <= limit:
            best, high = plan, share
        elif best is None:
            break
        else:
            low = share
        share = (low + high) / 2
    if best is None:
        raise BudgetError(
            "no cut stays within the allowed drop",
            where=f"--max-drop {limit:g}",
            because=f"with {LARGEST_SHARE:.0%} of the MACs left the drop is {drop:.2f} points already",
            hint="allow more, or give more data",
        )
    return replace(best, plan=replace(best.plan, settings=recipe.to_json()))


def _planned(planned_for: Callable[[Recipe], Planned], recipe: Recipe) -> Planned | None:
    """A plan, None where the floors of the groups are above the budget."""
    try:
        return planned_for(recipe)
    except BudgetError:
        return None


def drop_of(quality: Quality) -> float:
    """Loss in points: of accuracy where there are labels, else of agreement on the largest class, else of cosine."""
    if quality.accuracy_before is not None and quality.accuracy_after is not None:
        return 100 * (quality.accuracy_before - quality.accuracy_after)
    agreement = [output.cosine if output.top1 is None else output.top1 for output in quality.agreement]
    return 100 * (1 - min(agreement))


def _quality(dense: Session, pruned: ir.Model, judged: Data, runtime: RuntimeAdapter, opened: Opened) -> Quality:
    session = runtime.load(shrinkc_ir.loadable(pruned), RunConfig(threads=0))
    return evidence_quality.measure(dense, session, judged, batch_size(opened.analysis, QUALITY_BATCH))
