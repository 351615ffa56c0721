"""From scores and a budget to kept channels: widths the target likes, balanced groups, nothing empty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from shrinkc.analysis.cost import Cost, CostModel
from shrinkc.analysis.forming import Group
from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.analysis.running_cost import RunningCost
from shrinkc.api import Allocator, Evidence, FloatArray, Prescription, Problem
from shrinkc.budget import Budget
from shrinkc.errors import BudgetError
from shrinkc.evidence.curves import errors_by_width
from shrinkc.filling import filled

KeepMap = dict[str, tuple[int, ...]]

SEARCH_STEPS = 30
"""Bisection steps; 2**-30 of the pressure is below one channel of any model."""


@dataclass(frozen=True)
class Limits:
    """Widths a plan may use.

    Attributes
    ----------
    round_to : int
        Kept channels are a multiple of this (a smaller power of two in groups narrower than twice as much).
    min_width : int
        Channels that stay in every group, if it has as many.
    """

    round_to: int = 1
    min_width: int = 1


@dataclass(frozen=True)
class Allocation:
    """Kept positions, and what they cost."""

    keep: KeepMap
    cost: Cost
    pressure: float


@dataclass(frozen=True)
class GroupForecast:
    """What a choice of widths is predicted to cost in one group.

    Attributes
    ----------
    error : float
        Error of its consumers' outputs after the best refit, as a share of their energy.
    marginal : float or None
        Error that its last step added, per percent of the budgeted quantity which that step saved (at the chosen widths of the
        other groups); None where nothing went, or the step saved nothing.
    """

    error: float
    marginal: float | None


class Allocating:
    """One allocation problem: the same groups, scores and limits under varying pressure."""

    def __init__(
        self,
        analysis: Analysis,
        cost: CostModel,
        allocator: Allocator,
        scores: Mapping[str, FloatArray],
        limits: Limits,
        *,
        evidence: Evidence | None = None,
        is_comparable: bool = True,
        quantities: Sequence[str] = ("macs",),
    ) -> None:
        self._analysis, self._cost, self._allocator = analysis, cost, allocator
        self._scores, self._limits, self._evidence = scores, limits, evidence
        self._occupied = _least_occupied(analysis)
        self.problem = Problem(
            groups=analysis.groups,
            scores=scores,
            is_comparable=is_comparable,
            errors=cache_by_name(lambda group: errors_by_width(evidence, group, scores[group.name])),
            price=_Prices(analysis, cost, scores, quantities).price,
            step=lambda group: group_step(group, limits),
        )

    def at(self, pressure: float) -> Allocation:
        """Allocation under one pressure in [0, 1]."""
        keep = self.keep_for(self._allocator.widths(self.problem, pressure))
        return Allocation(keep, self._cost.of(self._analysis.keep_mask(keep)), pressure)

    def keep_for(self, widths: Mapping[str, float]) -> KeepMap:
        """Positions to keep where so many of every group are wanted."""
        return self._repaired(
            {
                group.name: select(group, self._scores[group.name], widths[group.name], self._limits)
                for group in self._analysis.groups
            }
        )

    def within(self, budgets: Sequence[Budget]) -> Allocation:
        """Allocation of the least pressure found that meets every budget; where errors decide, what it leaves is spent.

        Raises
        ------
        BudgetError
            Not even the greatest pressure does.
        """
        dense = self._cost.dense()
        best = least_pressure(self.at, budgets, dense)
        if best is None:
            raise self._infeasible(budgets, self.at(1.0), dense)
        if not self._allocator.needs_evidence or isinstance(self._allocator, Prescription):
            return best
        return filled(
            best, self.problem, self._widened, lambda found: all(budget.is_met(found.cost, dense) for budget in budgets)
        )

    def _widened(self, found: Allocation, group: Group, width: int) -> Allocation:
        kept = select(group, self._scores[group.name], width, self._limits)
        keep = self._repaired({**found.keep, group.name: kept})
        return Allocation(keep, self._cost.of(self._analysis.keep_mask(keep)), found.pressure)

    def forecast(self, keep: KeepMap) -> dict[str, GroupForecast]:
        """Predicted errors and marginal costs of every group whose consumers the evidence knows, by name."""
        widths = {name: len(kept) for name, kept in keep.items()}
        known = {} if self._evidence is None else self._evidence.consumers
        return {group.name: forecast(self.problem, group, widths) for group in self._analysis.groups if known.get(group.name)}

    def _infeasible(self, budgets: Sequence[Budget], best: Allocation, dense: Cost) -> BudgetError:
        missed = [budget for budget in budgets if not budget.is_met(best.cost, dense)]
        reachable = "; ".join(f"{budget.describe(dense)}: at best {budget.show(best.cost)}" for budget in missed)
        refused = [
            f"{refusal.where} ({refusal.blocker.reason}; {refusal.parameters:,} parameters, {refusal.macs:,} MACs)"
            for refusal in self._analysis.refusals[:3]
        ]
        widest = sorted(self._analysis.groups, key=lambda group: -group.width)[:3]
        limits = [f"{group.name} at {len(best.keep[group.name])} of {group.width}" for group in widest]
        return BudgetError(
            "no admissible plan meets the budget",
            where=reachable,
            because="these bind: " + ", ".join(limits + refused),
            hint="raise the budget, lower --round-to or --min-width, or exclude less",
        )

    def _repaired(self, keep: KeepMap) -> KeepMap:
        """Add channels back until every balance holds and no value is empty."""
        is_kept = self._analysis.named_mask(keep)
        rank = self._ranking()
        while _add_to_short_rows(self._analysis.balances, is_kept, rank) or _add_to_empty(self._occupied, is_kept, rank):
            pass
        is_kept = self._analysis.without_lost_heads(is_kept)
        return {
            group.name: tuple(int(position) for position in np.flatnonzero(is_kept[group.classes]))
            for group in self._analysis.groups
        }

    def _ranking(self) -> FloatArray:
        """Score by class, for choosing which to add back."""
        rank = np.zeros(self._analysis.n_classes + 1)
        for group in self._analysis.groups:
            rank[group.classes] = self._scores[group.name]
        return rank


Costed = TypeVar("Costed", bound="HasCost")


class HasCost(Protocol):
    """Something with a cost."""

    @property
    def cost(self) -> Cost:
        """What it costs."""


def least_pressure(at: Callable[[float], Costed], budgets: Sequence[Budget], dense: Cost) -> Costed | None:
    """What the least pressure found gives that meets every budget; None if not even the greatest does."""
    best = at(1.0)
    if not all(budget.is_met(best.cost, dense) for budget in budgets):
        return None
    low, high = 0.0, 1.0
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        trial = at(middle)
        if all(budget.is_met(trial.cost, dense) for budget in budgets):
            best, high = trial, middle
        else:
            low = middle
    return best


def forecast(problem: Problem, group: Group, widths: Mapping[str, int]) -> GroupForecast:
    """What ``widths`` (by group name, all of them) are predicted to cost in one group."""
    errors, width = problem.errors(group), widths.get(group.name, group.width)
    before = min(group.width, width + problem.step(group))
    saved = problem.price({**widths, group.name: before}) - problem.price(widths)
    return GroupForecast(float(errors[width]), float(errors[width] - errors[before]) / (100 * saved) if saved > 0 else None)


def select(group: Group, scores: FloatArray, wanted: float, limits: Limits) -> tuple[int, ...]:
    """Positions of a group to keep: the best scores, the same share of every balance cell, at an admissible width."""
    kept: list[int] = []
    cells = [np.flatnonzero(group.cells == cell) for cell in range(_n_cells(group))]
    for members in cells:
        share = wanted / group.width * len(members)
        count = admissible(share, len(members), _channels_per_step(group), limits)
        order = members[np.argsort(-scores[members], kind="stable")]
        kept += order[:count].tolist()
    return tuple(sorted(kept))


def admissible(wanted: float, size: int, channels_per_step: int, limits: Limits) -> int:
    """Nearest admissible number of positions to ``wanted`` in a cell of ``size``.

    Parameters
    ----------
    wanted : float
    size : int
        Positions there are.
    channels_per_step : int
        Channels that one more position per cell adds.
    limits : Limits

    Examples
    --------
    >>> admissible(32.4, 64, 1, Limits(round_to=8))
    32
    >>> admissible(3.0, 6, 1, Limits(round_to=8))
    4
    """
    step = step_of(size, channels_per_step, limits)
    count = max(step, math.floor(wanted / step + 0.5 + 1e-9) * step)
    return min(size, max(count, math.ceil(limits.min_width / channels_per_step)))


def step_of(size: int, channels_per_step: int, limits: Limits) -> int:
    """Positions by which the width of a cell of ``size`` may change."""
    step = limits.round_to // math.gcd(limits.round_to, channels_per_step)
    return step if size >= 2 * step else 1 << max(0, (size // 2).bit_length() - 1)


def group_step(group: Group, limits: Limits) -> int:
    """Positions by which the width of a group may change: the same step in every cell."""
    return step_of(group.width // _n_cells(group), _channels_per_step(group), limits) * _n_cells(group)


def _n_cells(group: Group) -> int:
    return int(group.cells.max()) + 1


def _channels_per_step(group: Group) -> int:
    """Channels that one more position in every cell adds."""
    return _n_cells(group) * group.multiplicity


def cache_by_name(curve: Callable[[Group], FloatArray]) -> Callable[[Group], FloatArray]:
    """The same function of a group, worked out once for each."""
    known: dict[str, FloatArray] = {}

    def looked_up(group: Group) -> FloatArray:
        if group.name not in known:
            known[group.name] = curve(group)
        return known[group.name]

    return looked_up


class _Prices:
    """What widths cost, as a share of the original, a mean over the budgeted quantities.

    Allocators ask for thousands of prices that differ in one or two widths, so the last answer is kept and brought up to date.
    """

    def __init__(
        self, analysis: Analysis, cost: CostModel, scores: Mapping[str, FloatArray], quantities: Sequence[str]
    ) -> None:
        self._analysis = analysis
        self._best_first = {
            group.name: group.classes[np.argsort(-scores[group.name], kind="stable")] for group in analysis.groups
        }
        self._widths = {group.name: group.width for group in analysis.groups}
        self._is_kept = np.ones(analysis.n_classes + 1, bool)
        self._counters = [RunningCost(cost.parts(name), analysis.n_classes) for name in quantities]
        self._dense = [counter.of(self._is_kept) or 1.0 for counter in self._counters]

    def price(self, widths: Mapping[str, float]) -> float:
        """Share that is left when every group keeps so many of its best positions; groups not named are whole."""
        for name, classes in self._best_first.items():
            width = round(widths.get(name, len(classes)))
            if width != self._widths[name]:
                self._keep(name, max(0, width))
        is_kept = self._analysis.without_lost_heads(self._is_kept)
        shares = [counter.of(is_kept) / dense for counter, dense in zip(self._counters, self._dense, strict=True)]
        return sum(shares) / len(shares)

    def _keep(self, name: str, width: int) -> None:
        before, self._widths[name] = self._widths[name], width
        self._is_kept[self._best_first[name][min(before, width) : max(before, width)]] = width > before


def _least_occupied(analysis: Analysis) -> list[tuple[np.ndarray, int]]:
    """Every set of classes that some value or tensor axis consists of, with how many of them must stay.

    One, so that nothing is empty; two where a normalisation runs over them, as it would turn a single one into a constant.
    """
    arrays = [(cut.classes, 1) for cut in analysis.cuts]
    arrays += [(analysis.classes[labels], 1) for labels in analysis.flow.labels.values()]
    arrays += [(classes, 2) for mixing, classes in analysis.mixings() if mixing.keeps_axis]
    removable = np.zeros(analysis.n_classes + 1, bool)
    for group in analysis.groups:
        removable[group.classes] = True
    sets = {(tuple(np.unique(array).tolist()), least) for array, least in arrays if removable[array].all()}
    return [(np.asarray(indices, np.int64), min(least, len(indices))) for indices, least in sorted(sets)]


def _add_to_empty(occupied: Sequence[tuple[np.ndarray, int]], is_kept: BoolArray, rank: FloatArray) -> bool:
    changed = False
    for classes, least in occupied:
        missing = least - int(is_kept[classes].sum())
        if missing > 0:
            removed = classes[~is_kept[classes]]
            is_kept[removed[np.argsort(-rank[removed], kind="stable")][:missing]] = True
            changed = True
    return changed


def _add_to_short_rows(balances: Sequence[np.ndarray], is_kept: BoolArray, rank: FloatArray) -> bool:
    changed = False
    for rows in balances:
        counts = is_kept[rows].sum(axis=1)
        for row, line in enumerate(rows):
            missing = int(counts.max() - counts[row])
            removed = np.unique(line[~is_kept[line]])
            if missing and len(removed):
                is_kept[removed[np.argsort(-rank[removed], kind="stable")][:missing]] = True
                changed = True
    return changed
