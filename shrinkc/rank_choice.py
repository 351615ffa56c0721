"""Ranks chosen without looking at errors: the same share of every layer's full rank, weighted shares, or by name.

That is how methods choose that train the model to the ranks it gets; :mod:`shrinkc.rank_allocation` chooses by what is lost.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shrinkc.analysis.cost import Cost
from shrinkc.budget import Budget
from shrinkc.errors import BudgetError, RecipeError
from shrinkc.factorable import Candidate

HALVINGS = 40
"""Of the interval that holds the largest scale within a budget."""

ROUNDING = 1e-9
"""A share that comes to a whole number but for rounding is that number."""

Ranks = dict[str, int]
"""Rank by layer; layers that are not named stay whole."""


@dataclass(frozen=True, eq=False)
class RankCost:
    """What a model costs by the ranks of its layers.

    Attributes
    ----------
    candidates : mapping of layer name to Candidate
    dense : Cost
        Of the model as it is.
    round_to : int
        What a layer's channels between its factors are to be a multiple of.
    """

    candidates: Mapping[str, Candidate]
    dense: Cost
    round_to: int = 1

    def of(self, ranks: Mapping[str, int]) -> Cost:
        """Cost with factors of some ranks in the place of layers; bytes are left as they are."""
        pairs = [(self.candidates[name].work(rank), self.candidates[name].dense()) for name, rank in ranks.items()]
        macs = sum(after.macs - before.macs for after, before in pairs)
        parameters = sum(after.parameters - before.parameters for after, before in pairs)
        return Cost(self.dense.macs + macs, self.dense.parameters + parameters, self.dense.size_bytes)


def at_shares(cost: RankCost, shares: Mapping[str, float]) -> Ranks:
    """Ranks that keep a share of every layer's full rank, at least one step; layers whose rank would not pay stay whole."""
    ranks = {}
    for name, share in shares.items():
        candidate = cost.candidates[name]
        step = cost.round_to // math.gcd(cost.round_to, candidate.site.groups)
        rank = max(step, int(candidate.full_rank * share + ROUNDING) // step * step)
        if rank <= candidate.largest_rank:
            ranks[name] = rank
    return ranks


def within(cost: RankCost, weights: Mapping[str, float], budget: Budget) -> Ranks:
    """Ranks of the largest scale ``c`` whose shares ``min(1, c * weight)`` meet a budget.

    Parameters
    ----------
    cost : RankCost
    weights : mapping of layer name to float
        Positive; all alike for the same share everywhere.
    budget : Budget

    Raises
    ------
    BudgetError
        Not even the lowest ranks meet it.
    """
    best = at_shares(cost, dict.fromkeys(weights, 0.0))
    if not budget.is_met(cost.of(best), cost.dense):
        raise BudgetError(
            "no ranks meet the budget",
            where=f"{budget.describe(cost.dense)}: at best {budget.show(cost.of(best))}",
            because=f"{len(weights)} layers can be of a lower rank",
            hint="raise the budget, or compress with --method auto, which removes channels too",
        )
    low, high = 0.0, 1 / min(weights.values(), default=1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        ranks = at_shares(cost, {name: min(1.0, middle * weight) for name, weight in weights.items()})
        if budget.is_met(cost.of(ranks), cost.dense):
            low, best = middle, ranks
        else:
            high = middle
    return best


def by_name(cost: RankCost, wanted: Mapping[str, int]) -> Ranks:
    """Ranks by shell patterns of layers, their nodes or their weights; the first pattern that fits a layer counts.

    Raises
    ------
    RecipeError
        A pattern fits no layer, or a rank is not below the break-even point of a layer.
    """
    ranks: Ranks = {}
    used: set[str] = set()
    for name, candidate in cost.candidates.items():
        pattern = next((pattern for pattern in wanted if _fits(candidate, pattern)), None)
        if pattern is not None:
            ranks[name] = _checked(candidate, wanted[pattern])
            used.add(pattern)
    unused = [pattern for pattern in wanted if pattern not in used]
    if unused:
        raise RecipeError(
            "no layer that can be of a lower rank is called so",
            where=", ".join(unused),
            hint=f"some that can: {_some(cost.candidates)}",
        )
    return ranks


def _fits(candidate: Candidate, pattern: str) -> bool:
    site = candidate.site
    names = (site.name, site.node.name or "", site.weight.name or "")
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _checked(candidate: Candidate, rank: int) -> int:
    if not 1 <= rank <= candidate.largest_rank:
        raise RecipeError(
            "a rank that does not pay",
            where=f"{candidate.name}: {rank}",
            because=f"ranks from 1 to {candidate.largest_rank} cost less than the layer whole",
        )
    return rank


def _some(names: Iterable[str]) -> str:
    listed: Sequence[str] = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
