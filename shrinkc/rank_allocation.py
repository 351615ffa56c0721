"""Ranks, and ranks together with channels, under one budget: for each layer keep, prune, factorise or both.

To an allocator a layer is one more group: its positions are the directions of its outputs, and keeping all of them means
leaving it whole.  Errors of channels and ranks add up; prices are those of the graph with both applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shrinkc.allocate import Allocating, KeepMap, least_pressure
from shrinkc.analysis.constants import UNTOUCHED
from shrinkc.analysis.cost import Cost, CostModel
from shrinkc.analysis.groups import Analysis
from shrinkc.analysis.running_cost import RunningCost
from shrinkc.api import Allocator, FloatArray, Group, Problem
from shrinkc.budget import Budget
from shrinkc.errors import BudgetError
from shrinkc.factorable import Candidate, Whole
from shrinkc.factored_cost import FactoredCost, Kept
from shrinkc.factored_latency import FactoredTimes
from shrinkc.plan import Rank


@dataclass(frozen=True)
class RankAllocation:
    """Kept positions by group, steps of layers, and what both cost."""

    keep: KeepMap
    ranks: tuple[Rank, ...]
    cost: Cost
    pressure: float


class RankAllocating:
    """One allocation problem over layers, and over groups of channels if there are any.

    Parameters
    ----------
    analysis : Analysis
    cost : CostModel
    allocator : Allocator
    candidates : sequence of Candidate
        One a layer.
    channels : Allocating or None
        The problem of the channels alone; None where all of them stay.
    sensitivity : mapping of layer name to float
        Error of the model's outputs per error of the layer's; layers that are not named count 1.
    quantities : sequence of str
        What the budget is of.
    times : FactoredTimes or None
        Of the layers; with them no layer gets a rank at which it is predicted to take no less time.
    """

    def __init__(
        self,
        analysis: Analysis,
        cost: CostModel,
        allocator: Allocator,
        candidates: Sequence[Candidate],
        *,
        channels: Allocating | None = None,
        sensitivity: Mapping[str, float] | None = None,
        quantities: Sequence[str] = ("macs",),
        times: FactoredTimes | None = None,
    ) -> None:
        self._analysis, self._allocator, self._channels, self._dense = analysis, allocator, channels, cost.dense()
        self._candidates = {candidate.name: candidate for candidate in candidates}
        self._cost = FactoredCost(analysis, cost, self._candidates, times)
        self._curves = {
            name: allocation_errors(candidate) * (sensitivity or {}).get(name, 1.0)
            for name, candidate in self._candidates.items()
        }
        self.problem = self._problem(cost, quantities)

    def _problem(self, cost: CostModel, quantities: Sequence[str]) -> Problem:
        own = {name: directions_as_group(candidate) for name, candidate in self._candidates.items()}
        base = None if self._channels is None else self._channels.problem
        scores = {name: _scores(self._curves[name], candidate) for name, candidate in self._candidates.items()}
        prices = _Prices(self._analysis, cost, self._cost, base, quantities, self._candidates)

        def errors(group: Group) -> FloatArray:
            return self._curves[group.name] if base is None or group.name in own else base.errors(group)

        def step(group: Group) -> int:
            is_own = base is None or group.name in own
            return self._candidates[group.name].step if is_own else base.step(group)  # type: ignore[union-attr]

        return Problem(
            groups=[*(() if base is None else base.groups), *own.values()],
            scores={**({} if base is None else base.scores), **scores},
            is_comparable=base is None or base.is_comparable,
            errors=errors,
            price=prices.price,
            step=step,
        )

    def at(self, pressure: float) -> RankAllocation:
        """Allocation under one pressure in [0, 1]."""
        widths = self._allocator.widths(self.problem, pressure)
        keep = {} if self._channels is None else self._channels.keep_for(widths)
        is_kept = self._analysis.keep_mask(keep)
        ranks = {}
        for name, candidate in self._candidates.items():
            rank = rounded(candidate, widths[name])
            if rank and self._cost.gain(name, rank, *self._cost.widths(name, is_kept)) is not None:
                ranks[name] = rank
        steps = tuple(Rank(name, self._candidates[name].form.name, rank) for name, rank in ranks.items())
        return RankAllocation(keep, steps, self._cost.of(is_kept, ranks), pressure)

    def within(self, budgets: Sequence[Budget], whole: Sequence[Whole] = ()) -> RankAllocation:
        """Allocation of the least pressure found that meets every budget.

        Raises
        ------
        BudgetError
            Not even the greatest pressure does; it names some of the layers that stay ``whole``.
        """
        best = least_pressure(self.at, budgets, self._dense)
        if best is None:
            raise self._infeasible(budgets, whole)
        return best

    def _infeasible(self, budgets: Sequence[Budget], whole: Sequence[Whole]) -> BudgetError:
        best, dense = self.at(1.0), self._dense
        missed = [budget for budget in budgets if not budget.is_met(best.cost, dense)]
        reasons = [f"{layer.layer} ({layer.reason})" for layer in whole]
        more = [f"and {len(reasons) - 3} more layers"] if len(reasons) > 3 else []
        return BudgetError(
            "no admissible ranks meet the budget" if self._channels is None else "no admissible plan meets the budget",
            where="; ".join(f"{budget.describe(dense)}: at best {budget.show(best.cost)}" for budget in missed),
            because="these stay whole: " + ", ".join([*reasons[:3], *more]) if reasons else "",
            hint="raise the budget, or lower --round-to"
            + ("; --method auto removes channels too" if self._channels is None else ""),
        )


def directions_as_group(candidate: Candidate) -> Group:
    """A layer as a group whose positions are the directions of its outputs: they belong to no class of the graph."""
    width = candidate.full_rank
    return Group(candidate.name, np.full(width, UNTOUCHED), (), np.zeros(width, np.int64), 1, is_exact=False)


def allocation_errors(candidate: Candidate) -> FloatArray:
    """Error by rank as an allocator needs it: never growing, and none above the largest rank that pays: whole again."""
    errors: FloatArray = np.maximum.accumulate(candidate.errors[::-1])[::-1].copy()
    errors[candidate.largest_rank + 1 :] = 0.0
    return errors


def _scores(errors: FloatArray, candidate: Candidate) -> FloatArray:
    """What every direction is worth: the error it saves per unit of work, for allocators that rank positions."""
    drops: FloatArray = -np.diff(errors)
    per_rank = candidate.work(1).macs / max(1, candidate.dense().macs)
    return np.asarray(np.maximum(drops, 0.0) / (per_rank or 1.0), np.float64)


def rounded(candidate: Candidate, width: float) -> int:
    """Admissible rank for a wanted width; 0 where the layer stays whole."""
    step = candidate.step
    rank = max(step, int(np.floor(width / step + 0.5 + 1e-9)) * step)
    return rank if width < candidate.full_rank and rank <= candidate.largest_rank else 0


class _Prices:
    """What widths and ranks cost, as a share of the original, a mean over the budgeted quantities."""

    def __init__(
        self,
        analysis: Analysis,
        cost: CostModel,
        factored: FactoredCost,
        channels: Problem | None,
        quantities: Sequence[str],
        candidates: Mapping[str, Candidate],
    ) -> None:
        self._analysis, self._factored, self._candidates, self._quantities = analysis, factored, candidates, quantities
        groups = [] if channels is None else channels.groups
        scores = {} if channels is None else channels.scores
        self._best_first = {group.name: group.classes[np.argsort(-scores[group.name], kind="stable")] for group in groups}
        self._widths = {group.name: group.width for group in groups}
        self._named = np.ones(analysis.n_classes + 1, bool)
        self._is_kept = self._named.copy()
        self._counters = [RunningCost(cost.parts(name), analysis.n_classes) for name in quantities]
        self._dense = [max(1.0, counter.of(self._named)) for counter in self._counters]
        self._base = list(self._dense)
        self._channel_counts: dict[str, Kept] = {}

    def price(self, widths: Mapping[str, float]) -> float:
        """Share that is left under widths of groups and ranks of layers; what is not named is whole."""
        self._follow(widths)
        totals = list(self._base)
        for name, candidate in self._candidates.items():
            rank = widths.get(name, candidate.full_rank)
            if rank <= candidate.largest_rank:
                for number, change in enumerate(self._change(name, round(rank))):
                    totals[number] += change
        return sum(total / dense for total, dense in zip(totals, self._dense, strict=True)) / len(totals)

    def _follow(self, widths: Mapping[str, float]) -> None:
        """Bring counts up to date with the widths of the groups."""
        moved = False
        for name, classes in self._best_first.items():
            width = max(0, round(widths.get(name, len(classes))))
            before, self._widths[name] = self._widths[name], width
            if width != before:
                self._named[classes[min(before, width) : max(before, width)]] = width > before
                moved = True
        if moved:
            self._is_kept = self._analysis.without_lost_heads(self._named)
            self._base = [counter.of(self._is_kept) for counter in self._counters]
            self._channel_counts = {}

    def _change(self, name: str, rank: int) -> list[float]:
        """What factorising saves at the widths of now; never a loss, as the layer would stay whole."""
        if name not in self._channel_counts:
            self._channel_counts[name] = self._factored.widths(name, self._is_kept)
        gain = self._factored.gain(name, rank, *self._channel_counts[name])
        if gain is None:
            return [0.0] * len(self._quantities)
        return [min(0.0, float(getattr(gain, quantity) or 0.0)) for quantity in self._quantities]


def best_forms(candidates: Sequence[Candidate], share: float) -> tuple[Candidate, ...]:
    """One candidate a name: that with the least error at about ``share`` of the layer's work."""
    by_layer: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_layer.setdefault(candidate.name, []).append(candidate)
    return tuple(min(own, key=_error_at(share)) for own in by_layer.values())


def apart(candidates: Sequence[Candidate], share: float, sensitivity: Mapping[str, float]) -> tuple[Candidate, ...]:
    """Candidates of which no two change the same layer: several layers together, or each by itself, whichever loses less.

    What is compared is the error of the outputs per saved multiply-accumulate at about ``share`` of the work.
    """
    own = {candidate.name: candidate for candidate in candidates if candidate.layers == (candidate.name,)}
    dropped: set[str] = set()
    for candidate in candidates:
        rivals = [own[name] for name in candidate.layers if name in own and own[name] is not candidate]
        if rivals:
            is_better = _loss([candidate], share, sensitivity) <= _loss(rivals, share, sensitivity)
            dropped |= {rival.name for rival in rivals} if is_better else {candidate.name}
    return tuple(candidate for candidate in candidates if candidate.name not in dropped)


def _loss(candidates: Sequence[Candidate], share: float, sensitivity: Mapping[str, float]) -> float:
    """Error per saved multiply-accumulate."""
    ranks = [(candidate, _rank_at(candidate, share)) for candidate in candidates]
    able = [(candidate, rank) for candidate, rank in ranks if rank]
    saved = sum(candidate.dense().macs - candidate.work(rank).macs for candidate, rank in able)
    error = sum(float(candidate.errors[rank]) * sensitivity.get(candidate.name, 1.0) for candidate, rank in able)
    return error / saved if saved > 0 else float("inf")


def _error_at(share: float) -> Callable[[Candidate], float]:
    def error(candidate: Candidate) -> float:
        rank = _rank_at(candidate, share)
        return float(candidate.errors[rank]) if rank else float("inf")

    return error


def _rank_at(candidate: Candidate, share: float) -> int:
    """Largest admissible rank that takes no more than a share of the whole work; 0 if none does."""
    dense, step = candidate.dense().macs, candidate.step
    ranks = range(step, candidate.largest_rank + 1, step)
    return max((rank for rank in ranks if candidate.work(rank).macs <= share * dense), default=0)
