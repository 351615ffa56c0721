"""Minimum total error under a budget by dynamic programming over a grid of widths for every group.

Frantar, Alistarh. SPDY: Accurate Pruning with Speedup Guarantees. ICML 2022: layer-wise errors add up, so do the
prices, and the best choice within a budget is a knapsack over discretised prices.  Differs: prices of neighbouring layers are
products of their widths, so every group's price is taken with the others at their widths of now, the knapsack is solved, and
that is repeated from its solution; the first widths, and the fallback, are those of the Lagrangian walk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from shrinkc.passes.allocators.lagrangian import Lagrangian, Walk, Widths, width_grid

from shrinkc.api import FloatArray, Group, Problem

MAX_WIDTHS = 16
"""Widths of one group that are looked at, spread evenly; as many more lie about its width of now."""

PRICED = 5
"""Widths of one group whose price is asked for; it runs straight, or nearly so, between them."""

CELLS = 4096
"""Into how many cells a budget is divided; a group's price is off by half a cell at most."""

PRESSURES = 8192
"""Pressures that are told apart: a solution takes a while, and a search over pressures asks for many."""

ROUNDS = 3
"""How often prices are taken anew."""


class DynamicProgramming:
    """Solves the budget that a pressure stands for, ``1 - pressure`` of the span of prices.

    Widths of a single group may grow with the pressure, where another one's shrink for it; what all of them cost stays below
    the budget, which falls.
    """

    name = "dynamic-programming"
    needs_evidence = True

    def __init__(self) -> None:
        self._lagrangian = Lagrangian()
        self._solved: WeakKeyDictionary[Problem, dict[int, dict[str, float]]] = WeakKeyDictionary()

    def widths(self, problem: Problem, pressure: float) -> dict[str, float]:
        """See :class:`shrinkc.api.Allocator`."""
        number = math.ceil(pressure * PRESSURES - 1e-9)
        solved = self._solved.setdefault(problem, {})
        if number not in solved:
            solved[number] = _solve(problem, self._lagrangian.walk(problem), number / PRESSURES)
        return solved[number]


def _solve(problem: Problem, walk: Walk, pressure: float) -> dict[str, float]:
    """Widths of least error among those found whose price is within the budget."""
    budget = walk.target(pressure)
    wanted = walk.at(budget)
    best = current = {group.name: _narrower(wanted[group.name], group, problem.step(group)) for group in problem.groups}
    excess = 0.0
    for _ in range(ROUNDS):
        current = _knapsack_around(problem, current, budget - excess)
        overshoot = problem.price(current) - budget
        if overshoot > 0:
            excess += overshoot
        elif _error(problem, current) < _error(problem, best):
            best = current
    return {name: float(width) for name, width in best.items()}


def _narrower(width: float, group: Group, step: int) -> int:
    """The next multiple of the step that is not wider; the least one is a single step."""
    return group.width if width >= group.width else max(min(step, group.width), int((width + 1e-6) // step) * step)


def _error(problem: Problem, widths: Mapping[str, int]) -> float:
    return sum(float(problem.errors(group)[widths[group.name]]) for group in problem.groups)


def _knapsack_around(problem: Problem, widths: Mapping[str, int], budget: float) -> dict[str, int]:
    """Best widths if every group cost what it does with the others at ``widths``."""
    grids = [_grid(group, problem.step(group), widths[group.name]) for group in problem.groups]
    prices = [_prices(problem, group, grid, widths) for group, grid in zip(problem.groups, grids, strict=True)]
    errors = [problem.errors(group)[grid] for group, grid in zip(problem.groups, grids, strict=True)]
    here = problem.price(widths)
    least = here + sum(float(own[0]) - here for own in prices)
    chosen = knapsack(errors, [own - own[0] for own in prices], max(0.0, budget - least))
    return {group.name: int(grid[option]) for group, grid, option in zip(problem.groups, grids, chosen.tolist(), strict=True)}


def _grid(group: Group, step: int, width: int) -> Widths:
    """Widths spread evenly, and the next ones about ``width``; ascending."""
    about = step * (width // step + np.arange(-MAX_WIDTHS // 2, MAX_WIDTHS // 2 + 1))
    coarse = width_grid(group, step, MAX_WIDTHS)
    return np.union1d(coarse, about[(about >= coarse[0]) & (about < group.width)])


def _prices(problem: Problem, group: Group, grid: Widths, widths: Mapping[str, int]) -> FloatArray:
    """Price of every width of one group with the others at ``widths``."""
    asked = np.unique(grid[np.linspace(0, len(grid) - 1, PRICED).astype(int)])
    return np.interp(grid, asked, [problem.price({**widths, group.name: int(width)}) for width in asked])


def knapsack(errors: Sequence[FloatArray], prices: Sequence[FloatArray], budget: float) -> NDArray[np.int64]:
    """One option of every group, of least total error within a budget.

    Parameters
    ----------
    errors, prices : sequences of ndarray of shape (options,), float64
        Of every group; the first option of each is free.
    budget : float
        Prices are rounded to a ``CELLS``-th of it.

    Returns
    -------
    ndarray of shape (groups,), int64
    """
    unit = budget / CELLS or 1.0
    cells = [np.rint(np.maximum(own, 0) / unit).astype(np.int64) if budget else (own > 0) * (CELLS + 1) for own in prices]
    least = np.zeros(CELLS + 1)  # least error of the groups so far, by the cells they may fill
    choices = []
    for own_errors, own_cells in zip(errors, cells, strict=True):
        trials = np.full((len(own_errors), CELLS + 1), np.inf)
        for option, (error, cost) in enumerate(zip(own_errors.tolist(), own_cells.tolist(), strict=True)):
            if cost <= CELLS:
                trials[option, cost:] = least[: CELLS + 1 - cost] + error
        choices.append(trials.argmin(axis=0))
        least = trials.min(axis=0)
    return _traced_back(choices, cells)


def _traced_back(choices: Sequence[NDArray[np.int64]], cells: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Options that led to the solution which may fill all cells."""
    left, options = CELLS, []
    for choice, costs in zip(reversed(choices), reversed(cells), strict=True):
        options.append(int(choice[left]))
        left -= int(costs[options[-1]])
    return np.asarray(options[::-1], np.int64)
