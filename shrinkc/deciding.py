"""The plan of a run: what decides it, and that it changes anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from shrinkc import ir as shrinkc_ir
from shrinkc import planning
from shrinkc.analysis.groups import Analysis
from shrinkc.api import Evidence, FloatArray
from shrinkc.calibrating import evidence_from, needs_evidence
from shrinkc.carrying_out import cut, tried
from shrinkc.choosing import planned_in_turns
from shrinkc.edits import make_plan
from shrinkc.errors import BudgetError
from shrinkc.pacing import paced
from shrinkc.plan import Plan
from shrinkc.planning import Planned, Scored
from shrinkc.recipe import CHANNELS, LOWRANK, Recipe
from shrinkc.run import Run
from shrinkc.searching import largest_cut

SIZE_TRIES = 4
"""How often a plan is made again because the written file is larger than its tensors suggested."""


UNTIMED = "No layer was timed: what is factorised was chosen by its MACs alone, and may be no faster."


def decided(run: Run, gradients: Mapping[str, FloatArray]) -> Planned:
    """The plan that the recipe asks for: looked for by a largest drop, paced by a budget of time, or made at once.

    Parameters
    ----------
    run : Run
    gradients : mapping of tensor name to ndarray
        Of the loss, empty where no criterion reads them.

    Raises
    ------
    BudgetError
        Nothing can be removed, or the budget is out of reach.
    RecipeError
        The budget is met before anything is removed, or something needs data that was not given.
    """
    if run.recipe.only_merges:
        return Planned(make_plan(run.opened.analysis, {}, run.opened.sha256, run.recipe.to_json()), {})
    evidence = _gathered(run)
    if gradients:
        evidence = replace(evidence or Evidence(), gradients=gradients)
    if run.recipe.max_drop is not None:
        return largest_cut(
            run.opened,
            run.recipe,
            run.samples,
            run.runtime,
            run.progress,
            planned_for=lambda recipe: _planned(run, recipe, evidence),
            built=partial(tried, run),
        )
    budget = run.recipe.latency_budget()
    if budget is not None and run.timed is not None and run.timed.stopwatch is not None:
        return paced(
            run.opened,
            run.recipe,
            budget,
            run.timed.stopwatch,
            run.progress,
            planned_for=lambda recipe: _planned(run, recipe, evidence),
            built=partial(tried, run),
        )
    return _planned(run, run.recipe, evidence)


def _gathered(run: Run) -> Evidence | None:
    samples = run.samples.calibration
    if samples is None or not needs_evidence(run.recipe):
        return None
    return run.remembered(
        ("evidence",), samples, lambda: evidence_from(run.opened, run.recipe, samples, run.runtime, run.progress)
    )


def _scored(run: Run, recipe: Recipe, evidence: Evidence | None) -> Scored:
    samples = None if evidence is None else run.samples.calibration
    with run.progress.stage("scoring"):
        if evidence is not None and evidence.gradients:  # they may come from a file, which the key knows nothing of
            return planning.scored_by(run.opened.analysis, recipe, evidence)
        return run.remembered(
            ("scores", recipe.criterion), samples, lambda: planning.scored_by(run.opened.analysis, recipe, evidence)
        )


def _planned(run: Run, recipe: Recipe, evidence: Evidence | None) -> Planned:
    scored = None if recipe.method == LOWRANK else _scored(run, recipe, evidence)

    def plan_channels(known: Evidence | None) -> Planned:
        return _plan_within_size(run, recipe, known, partial(planning.planned_for, scored=scored))

    def plan_ranks(known: Evidence | None) -> Planned:
        work = run.factorising
        ranks = partial(planning.planned_with_ranks, scored=scored, sensitivity=work.sensitivity, times=work.predicted)
        chosen = work.planned(lambda found: _plan_within_size(run, recipe, known, partial(ranks, found=found)))
        return chosen if work.knows_times else replace(chosen, notes=(*chosen.notes, UNTIMED))

    return planned_in_turns(
        run.opened,
        recipe,
        evidence,
        run.samples.calibration,
        run.runtime,
        run.progress,
        plan=plan_channels if recipe.method == CHANNELS else plan_ranks,
    )


def _plan_within_size(run: Run, recipe: Recipe, evidence: Evidence | None, plan: Callable[..., Planned]) -> Planned:
    """Plan whose written file meets the budget of bytes: what the graph itself takes is only known once it is cut."""
    opened = run.opened
    budgets = [budget.of(opened.cost.dense()) for budget in recipe.budgets()]
    limits = [budget.amount for budget in budgets if budget.quantity == "size_bytes"]
    cost, excess = opened.cost, 0
    for _ in range(SIZE_TRIES):
        with run.progress.stage("allocating"):
            planned = plan(opened.analysis, recipe, budgets, cost, opened.sha256, evidence)
        if not limits:
            return planned
        is_kept = opened.analysis.keep_mask(planned.plan.keep())
        size = shrinkc_ir.written_bytes(cut(opened, recipe, is_kept))
        excess = size - cost.of(is_kept).size_bytes
        if size <= min(limits) or (planned.plan.ranks and excess <= 0):
            return planned
        cost = cost.plus_overhead(excess)
    raise BudgetError(
        "no plan was found whose file meets the budget", because=f"the graph itself takes {excess} bytes more than expected"
    )


def check_not_empty(chosen: Plan, analysis: Analysis, recipe: Recipe) -> None:
    """Refuse a plan that changes nothing, where no factors were merged either.

    Raises
    ------
    BudgetError
    """
    if chosen.changes_nothing and recipe.merge_factors:
        raise BudgetError(
            "no factors were merged, and nothing was removed",
            because="there is no pair of linear layers in a row that is better off as one",
            hint="give a budget, or leave --merge-factors out",
        )
    if chosen.changes_nothing:
        raise BudgetError(
            "the plan removes nothing",
            because=_why_nothing(analysis),
            hint="lower --round-to or ask for more; `shrinkc inspect` lists what is tied and what must stay",
        )


def _why_nothing(analysis: Analysis) -> str:
    tied = [group.name for group in analysis.groups if group.width == 1]
    if tied:
        return f"all channels of {', '.join(tied[:3])} are tied to each other, and no other group can get narrower"
    return "every group is at its smallest admissible width"
