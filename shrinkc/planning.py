"""From an analysed graph and a recipe to a plan.  Pure: reads weights, changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.allocate import Allocating, Allocation, GroupForecast, Limits
from shrinkc.analysis.cost import Cost, CostModel
from shrinkc.analysis.groups import Analysis
from shrinkc.api import Allocator, Checking, Criterion, Evidence, FloatArray, Prescription, Seeded, Weights
from shrinkc.budget import Budget
from shrinkc.edits import make_plan
from shrinkc.errors import BudgetError, PluginError, RecipeError, UnsupportedGraphError
from shrinkc.factorable import Found
from shrinkc.factored_latency import FactoredTimes
from shrinkc.graphs import inner_graphs
from shrinkc.plan import Plan
from shrinkc.rank_allocation import RankAllocating, apart, best_forms
from shrinkc.recipe import AUTO, LOWRANK, Recipe


@dataclass(frozen=True)
class Planned:
    """A plan, and what it is predicted to cost in every group whose consumers the evidence knows.

    ``notes`` are sentences for the report: what the evidence looked at in part only.  ``cost`` is what the model will cost
    where layers are factorised, None where channels alone tell.
    """

    plan: Plan
    forecast: Mapping[str, GroupForecast]
    notes: tuple[str, ...] = ()
    cost: Cost | None = None


@dataclass(frozen=True)
class Scored:
    """What a criterion says of every group, by name, and whether groups may be compared by it."""

    scores: Mapping[str, FloatArray]
    is_comparable: bool


def plan_for(
    analysis: Analysis,
    recipe: Recipe,
    budgets: Sequence[Budget],
    cost: CostModel,
    model_sha256: str,
    evidence: Evidence | None,
) -> Plan:
    """Plan that follows a recipe; see :func:`planned_for`."""
    return planned_for(analysis, recipe, budgets, cost, model_sha256, evidence).plan


def planned_for(
    analysis: Analysis,
    recipe: Recipe,
    budgets: Sequence[Budget],
    cost: CostModel,
    model_sha256: str,
    evidence: Evidence | None,
    scored: Scored | None = None,
) -> Planned:
    """Plan that follows a recipe, and what it is predicted to cost; ``budgets`` are the recipe's, as absolute numbers.

    ``scored`` is what :func:`scored_by` makes of the recipe and the evidence, where it is known already.

    Raises
    ------
    BudgetError
        Nothing can be removed, or the budget is out of reach.
    RecipeError
        The budget is met before anything is removed, or a plug-in needs data that was not given.
    """
    if not analysis.groups:
        raise BudgetError(
            "nothing in this model can be removed", because=_why(analysis), hint="`shrinkc inspect` lists every reason"
        )
    allocator: Allocator = registry.built("allocators", recipe.allocator)
    scored = scored or scored_by(analysis, recipe, evidence)
    problem = channel_problem(analysis, recipe, budgets, cost, evidence, scored, allocator)
    if isinstance(allocator, Prescription):
        allocation = problem.at(1.0)
    elif recipe.prune_ratio is not None:
        allocation = problem.at(recipe.prune_ratio)
    else:
        allocation = _within(problem, budgets, cost.dense())
    plan = make_plan(analysis, allocation.keep, model_sha256, recipe.to_json())
    return Planned(plan, problem.forecast(allocation.keep), () if evidence is None else evidence.notes)


def planned_with_ranks(
    analysis: Analysis,
    recipe: Recipe,
    budgets: Sequence[Budget],
    cost: CostModel,
    model_sha256: str,
    evidence: Evidence | None,
    scored: Scored | None = None,
    *,
    found: Found,
    sensitivity: Mapping[str, float],
    times: FactoredTimes | None = None,
) -> Planned:
    """Plan of ranks, and of channels too where the method is ``auto``; ``scored`` is of the channels, see :func:`planned_for`.

    Raises
    ------
    BudgetError
        No layer can be factorised, or the budget is out of reach.
    RecipeError
        See :func:`planned_for`.
    """
    is_joint = recipe.method == AUTO and bool(analysis.groups)
    if not found.candidates and not is_joint:
        reasons = "; ".join(f"{layer.layer}: {layer.reason}" for layer in found.whole[:3])
        raise BudgetError("no layer of this model can be factorised", because=reasons or "it has none of its own weights")
    _check_not_met(budgets, cost.dense())
    allocator: Allocator = registry.built("allocators", recipe.allocator)
    channels = None
    if is_joint:
        scored = scored or scored_by(analysis, recipe, evidence)
        channels = channel_problem(analysis, recipe, budgets, cost, evidence, scored, allocator)
    problem = RankAllocating(
        analysis,
        cost,
        allocator,
        apart(best_forms(found.candidates, FORM_SHARE), FORM_SHARE, sensitivity),
        channels=channels,
        sensitivity=sensitivity,
        quantities=[budget.quantity for budget in budgets] or ("macs",),
        times=times,
    )
    allocation = problem.within(budgets, found.whole)
    plan = make_plan(analysis, allocation.keep, model_sha256, recipe.to_json())
    forecast = {} if channels is None else channels.forecast(allocation.keep)
    notes = () if evidence is None else evidence.notes
    return Planned(replace(plan, ranks=allocation.ranks), forecast, notes, allocation.cost)


FORM_SHARE = 0.5
"""Share of a layer's work at which its forms are compared."""


def channel_problem(
    analysis: Analysis,
    recipe: Recipe,
    budgets: Sequence[Budget],
    cost: CostModel,
    evidence: Evidence | None,
    scored: Scored,
    allocator: Allocator,
) -> Allocating:
    """The problem of which channels stay, as a recipe puts it."""
    return Allocating(
        analysis,
        cost,
        allocator,
        scored.scores,
        Limits(recipe.round_to, recipe.min_width),
        evidence=evidence,
        is_comparable=scored.is_comparable,
        quantities=[budget.quantity for budget in budgets] or ("macs",),
    )


def scored_by(analysis: Analysis, recipe: Recipe, evidence: Evidence | None) -> Scored:
    """Scores of every group by the recipe's criterion.

    Raises
    ------
    RecipeError
        The criterion needs data that was not given.
    PluginError
        It returned something other than one finite number per position.
    """
    criterion = _criterion(analysis, recipe)
    if criterion.needs_evidence and evidence is None:
        raise RecipeError("the criterion needs data", where=f"--criterion {recipe.criterion}", hint="give --data FILE.npz")
    read = weights_of(analysis)
    scores = {
        group.name: _checked(criterion, group.name, criterion.scores(group, read, evidence), group.width)
        for group in analysis.groups
    }
    return Scored(scores, criterion.is_comparable)


def follows_errors(recipe: Recipe) -> bool:
    """Whether widths are chosen by predicted errors, so that another sensitivity would give others."""
    if recipe.method == LOWRANK:
        return False
    allocator: Allocator = registry.built("allocators", recipe.allocator)
    return allocator.needs_evidence and not isinstance(allocator, Prescription)


def _within(problem: Allocating, budgets: Sequence[Budget], dense: Cost) -> Allocation:
    _check_not_met(budgets, dense)
    return problem.within(budgets)


def _check_not_met(budgets: Sequence[Budget], dense: Cost) -> None:
    for budget in budgets:
        if budget.is_met(dense, dense):
            raise RecipeError(
                "the model is within the budget already", where=budget.describe(dense), because=f"it has {budget.show(dense)}"
            )


def _criterion(analysis: Analysis, recipe: Recipe) -> Criterion:
    criterion: Criterion = registry.built("criteria", recipe.criterion)
    if isinstance(criterion, Seeded):
        criterion.seed = recipe.seed
    if isinstance(criterion, Checking):
        criterion.check(analysis.groups)
    return criterion


def _checked(criterion: Criterion, group: str, scores: FloatArray, width: int) -> FloatArray:
    if scores.shape != (width,) or not np.isfinite(scores).all():
        raise PluginError("a criterion returned unusable scores", where=f"{criterion.name} on {group}")
    return scores


def _why(analysis: Analysis) -> str:
    reasons = [f"{refusal.blocker.reason} ({refusal.blocker.node})" for refusal in analysis.refusals[:3]]
    inside = [node.name or node.op_type for node in analysis.model.graph if inner_graphs(node)]
    if inside and not reasons:
        return f"whatever layers it has lie inside {', '.join(inside[:3])}, and branches and loops are not pruned"
    return "; ".join(reasons) or "no convolution or matrix product with constant weights was found"


def weights_of(analysis: Analysis) -> Weights:
    """Reader of stored tensors, filled ones included; raises UnsupportedGraphError where one is not finite."""
    checked: set[ir.Value] = set()

    def read(value: ir.Value) -> FloatArray:
        tensor = shrinkc_ir.constant_tensor(value)
        if tensor is None:
            return np.broadcast_to(np.float32(1), analysis.flow.shape(value))
        array = shrinkc_ir.contents(tensor)
        if value not in checked:
            _check_finite(value, array)
            checked.add(value)
        return array

    return read


def _check_finite(value: ir.Value, array: FloatArray) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnsupportedGraphError(
            "a weight holds NaN or infinity",
            where=value.name or "",
            because="its channels cannot be compared",
            hint="the file is damaged or untrained",
        )


def replayed(plan: Plan, analysis: Analysis, model_sha256: str, name: str) -> Plan:
    """A saved plan, checked against the model it is applied to.

    Raises
    ------
    RecipeError
        It was made for another model, or names groups or positions this one lacks.
    """
    if plan.model_sha256 != model_sha256:
        raise RecipeError(
            "the plan was made for another model",
            where=name,
            because=f"it names sha256 {plan.model_sha256[:12]}…, the model has {model_sha256[:12]}…",
        )
    widths = {group.name: group.width for group in analysis.groups}
    if len({step.group for step in plan.steps}) != len(plan.steps):
        raise RecipeError("the plan names a group twice", where=name)
    for step in plan.steps:
        if step.group not in widths:
            raise RecipeError("the plan names a group the model lacks", where=step.group, hint="make the plan again")
        if (
            not step.indices
            or len(set(step.indices)) != len(step.indices)
            or not 0 <= min(step.indices) <= max(step.indices) < widths[step.group]
        ):
            raise RecipeError("the plan keeps impossible positions", where=step.group)
    fresh = make_plan(analysis, plan.keep(), model_sha256, plan.settings)
    if len({step.layer for step in plan.ranks}) != len(plan.ranks):
        raise RecipeError("the plan factorises a layer twice", where=name)
    if fresh.groups != plan.groups:
        raise RecipeError(
            "the plan's slices do not belong to its steps", where=name, hint="it was edited by hand or made by another version"
        )
    return plan
