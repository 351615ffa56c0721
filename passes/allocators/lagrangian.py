"""Minimum total error under a budget by its Lagrangian: every step is the one with the least error per price saved.

Everett. Generalized Lagrange multiplier method for solving problems of optimum allocation of resources. Operations Research
11(3), 1963: whatever minimises ``error + lambda * price`` is optimal for the price it reaches.  With separable, linear prices
that minimum lies at a corner of the lower convex hull of each group's error curve, and a growing ``lambda`` walks along the
hulls, the flattest edge of all groups first.  Differs: the price of a layer is a product of widths, so an edge is priced anew
at the widths of its neighbours before it is taken.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from shrinkc.api import FloatArray, Group, Problem

MAX_WIDTHS = 64
"""Widths of one group that are looked at."""

Widths = NDArray[np.int64]


@dataclass(frozen=True)
class Walk:
    """Widths that shrink one after the other, and the price after each step.

    Attributes
    ----------
    start : mapping of group name to width
    steps : tuple of (group name, width)
    prices : ndarray of shape (1 + number of steps,), float64
        Never increasing.
    """

    start: Mapping[str, int]
    steps: tuple[tuple[str, int], ...]
    prices: FloatArray

    def target(self, pressure: float) -> float:
        """Price that ``pressure`` asks for: a share of the way from the first to the last."""
        first, last = float(self.prices[0]), float(self.prices[-1])
        return last if pressure >= 1 else first - pressure * (first - last)

    def at(self, price: float) -> dict[str, float]:
        """Widths that cost ``price``; of the last step only as much is taken as that needs."""
        count = min(int(np.searchsorted(-self.prices, -price, side="left")), len(self.steps))
        widths: dict[str, float] = {**self.start, **dict(self.steps[: max(0, count - 1)])}
        if count:
            name, width = self.steps[count - 1]
            above, below = self.prices[count - 1 : count + 1]
            share = 1.0 if above <= below else float(np.clip((above - price) / (above - below), 0, 1))
            widths[name] += share * (width - widths[name])
        return widths


class Lagrangian:
    """Walks down the convex hulls of all error curves, always where it costs least; ``pressure`` says how far."""

    name = "lagrangian"
    needs_evidence = True

    def __init__(self) -> None:
        self._walks: WeakKeyDictionary[Problem, Walk] = WeakKeyDictionary()

    def widths(self, problem: Problem, pressure: float) -> dict[str, float]:
        """See :class:`shrinkc.api.Allocator`."""
        walk = self.walk(problem)
        return walk.at(walk.target(pressure))

    def walk(self, problem: Problem) -> Walk:
        """The whole way from everything to one step of every group, worked out once for a problem."""
        if problem not in self._walks:
            self._walks[problem] = _walk(problem)
        return self._walks[problem]


def width_grid(group: Group, step: int, at_most: int) -> Widths:
    """Multiples of the step, thinned out to about ``at_most`` of them, the least and the whole width among them; ascending."""
    multiples = np.arange(min(step, group.width), group.width, step)
    coarse = multiples[:: -(-len(multiples) // at_most) or 1]
    return np.append(coarse, group.width).astype(np.int64)


def lower_hull(widths: Widths, errors: FloatArray) -> Widths:
    """Widths at the corners of the lower convex hull of an error curve, the widest first."""
    corners: list[tuple[int, float]] = []
    for width, error in zip(widths[::-1].tolist(), errors[widths[::-1]].tolist(), strict=True):
        while len(corners) > 1 and _is_above(corners[-1], corners[-2], (width, error)):
            corners.pop()
        corners.append((width, error))
    return np.asarray([width for width, _ in corners], np.int64)


def _is_above(point: tuple[int, float], wider: tuple[int, float], narrower: tuple[int, float]) -> bool:
    """Whether a point lies on or above the line between its neighbours."""
    return (point[1] - wider[1]) * (wider[0] - narrower[0]) >= (narrower[1] - wider[1]) * (wider[0] - point[0])


@dataclass(frozen=True, order=True)
class _Edge:
    """The next edge of one group's hull, priced when ``steps_before`` steps had been taken."""

    error_per_price: float
    number: int
    corner: int
    steps_before: int
    price_after: float


class _Walker:
    """Where a walk has come to."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._hulls = [
            lower_hull(width_grid(group, problem.step(group), MAX_WIDTHS), problem.errors(group)) for group in problem.groups
        ]
        self.widths = {group.name: group.width for group in problem.groups}
        self.prices = [problem.price(self.widths)]
        self.steps: list[tuple[str, int]] = []

    def edges(self) -> list[_Edge]:
        """The first edge of every group."""
        return [self.edge(number, 1) for number, hull in enumerate(self._hulls) if len(hull) > 1]

    def edge(self, number: int, corner: int) -> _Edge:
        """The edge that ends in a corner, priced at the widths of now."""
        group, width = self._problem.groups[number], int(self._hulls[number][corner])
        errors = self._problem.errors(group)
        price = self._problem.price({**self.widths, group.name: width})
        added, saved = float(errors[width] - errors[self.widths[group.name]]), self.prices[-1] - price
        ratio = added / saved if saved > 0 else np.inf if added > 0 else 0.0
        return _Edge(ratio, number, corner, len(self.steps), price)

    def take(self, edge: _Edge) -> _Edge | None:
        """Go along an edge; the one after it, if there is one."""
        name, width = self._problem.groups[edge.number].name, int(self._hulls[edge.number][edge.corner])
        self.widths[name] = width
        self.prices.append(min(self.prices[-1], edge.price_after))
        self.steps.append((name, width))
        return self.edge(edge.number, edge.corner + 1) if edge.corner + 1 < len(self._hulls[edge.number]) else None


def _walk(problem: Problem) -> Walk:
    walker = _Walker(problem)
    start = dict(walker.widths)
    edges = walker.edges()
    heapq.heapify(edges)
    while edges:
        edge = heapq.heappop(edges)
        following: _Edge | None
        if edge.steps_before == len(walker.steps):
            following = walker.take(edge)
        else:  # savings only shrink as neighbours do, so what was put in the heap is a lower bound
            following = walker.edge(edge.number, edge.corner)
        if following is not None:
            heapq.heappush(edges, following)
    return Walk(start, tuple(walker.steps), np.asarray(walker.prices))
