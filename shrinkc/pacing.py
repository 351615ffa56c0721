"""The cut that a budget of time asks for: planned by forecast, measured as a whole, and planned again by what that told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from shrinkc.budget import Budget
from shrinkc.errors import BudgetError, RecipeError
from shrinkc.latency.probe import Comparison
from shrinkc.latency.stopwatch import Stopwatch, share
from shrinkc.log import Progress
from shrinkc.opening import Opened
from shrinkc.plan import Plan
from shrinkc.planning import Planned
from shrinkc.recipe import Recipe
from shrinkc.timing import made_up_feed

TRIES = 4
"""How often a plan is made again because the whole model took another time than its layers suggested."""

CLOSE = 0.96
"""Share of the budget above which a plan that meets it is good enough."""

AIM = 0.99
"""What a corrected plan aims at, as a share of the budget."""

TOLERANCE = 0.05
"""How far the final measurement may miss what was asked for: two measurements of one model differ by as much."""

Planner = Callable[[Recipe], Planned]


def paced(
    opened: Opened,
    recipe: Recipe,
    budget: Budget,
    stopwatch: Stopwatch[Any],
    progress: Progress,
    *,
    planned_for: Planner,
    built: Callable[[Plan], ir.Model],
) -> Planned:
    """Plan whose measured time comes closest to a budget from below; the fastest found, if none meets it.

    ``built`` carries a plan out.

    Raises
    ------
    BudgetError
        Not even the forecast can be brought down to the budget.
    """
    predicted = opened.cost.dense().latency_s or 0.0
    wanted = budget.limit(opened.cost.dense()) / predicted
    feed = made_up_feed(opened)
    with stopwatch.loaded(opened.model, feed) as dense:

        def measured(plan: Plan) -> float:
            with stopwatch.loaded(built(plan), feed) as pruned:
                return share(stopwatch, dense, pruned, feed)

        found = _tried(planned_for, recipe, wanted, measured, progress)
    best = _best(found, wanted)
    return replace(best, plan=replace(best.plan, settings=recipe.to_json()))


def _tried(
    planned_for: Planner, recipe: Recipe, wanted: float, measured: Callable[[Plan], float], progress: Progress
) -> list[tuple[float, Planned]]:
    """Plans for a share of the time, each aimed better by what the one before measured as a whole, and that measurement."""
    found: list[tuple[float, Planned]] = []
    aim = wanted
    for _ in range(TRIES):
        with progress.stage(f"planning for {aim:.1%} of the time"):
            plan = _planned(planned_for, recipe, aim, is_first=not found)
        if plan is None:
            break
        with progress.stage("timing the whole model"):
            took = measured(plan.plan)
        found.append((took, plan))
        if CLOSE * wanted <= took <= wanted:
            break
        aim = min(aim * AIM * wanted / took, 0.99)
    return found


def _planned(planned_for: Planner, recipe: Recipe, share: float, *, is_first: bool) -> Planned | None:
    """A plan; None where a corrected budget is out of reach, or asks for nothing."""
    try:
        return planned_for(replace(recipe, speedup=None, latency=f"{100 * share:.4f}%"))
    except (BudgetError, RecipeError):
        if is_first:
            raise
        return None


def _best(found: list[tuple[float, Planned]], wanted: float) -> Planned:
    within = [entry for entry in found if entry[0] <= wanted]
    return max(within, key=_share)[1] if within else min(found, key=_share)[1]


def _share(entry: tuple[float, Planned]) -> float:
    return entry[0]


def missed(budget: Budget, measured: Comparison) -> str:
    """What the final measurement has to say against a budget; empty if it was met."""
    got, factor = measured.fair_speedup, 1 / budget.amount
    if got < 1:
        return f"the compressed model measures SLOWER than the original: {got:.2f}x"
    if budget.is_relative and got < (1 - TOLERANCE) * factor:
        return f"asked for {factor:.2f}x speed, measured {got:.2f}x"
    if not budget.is_relative and measured.fair_seconds > (1 + TOLERANCE) * budget.amount:
        return f"asked for {1e3 * budget.amount:.4g} ms, measured {1e3 * measured.fair_seconds:.4g} ms"
    return ""
