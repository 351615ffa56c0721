"""Channels in the order in which a LASSO lets go of them as its penalty grows.

He, Zhang, Sun. Channel Pruning for Accelerating Very Deep Neural Networks. ICCV 2017; the maths, and where it differs, is in
:mod:`shrinkc.evidence.lasso`.  Contributions are centred, output by output: the method fits an intercept for each in its
second step, and so does whatever repairs a layer here.  Differs: the supports of a LASSO need not be nested; here what is
gone stays gone, so that one score serves all widths.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.contributions import centred_gram
from shrinkc.evidence.lasso import PRECISION, START, TOLERANCE, Solution, solve, to_width
from shrinkc.evidence.ordering import Removals


class Lasso:
    """Penalty at which a position's coefficient becomes zero; a group without evidence has scores of one."""

    name = "lasso"
    needs_evidence = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        consumers = () if evidence is None else evidence.consumers.get(group.name, ())
        if not consumers:
            return np.ones(group.width)
        return let_go(centred_gram(consumers, group.width)).scores()


def let_go(gram: FloatArray) -> Removals:
    """Order in which coefficients become zero.

    Between two solutions (a tenth apart in width, the tolerance of the official search) the smaller coefficient goes first.

    Parameters
    ----------
    gram : ndarray of shape (width, width), float64
        Of centred contributions.

    Returns
    -------
    Removals
        Each costs the penalty of the first solution without it.
    """
    largest = float(np.abs(gram.sum(1)).max())
    kept, order, penalties = np.ones(len(gram), bool), list[int](), list[float]()
    before = Solution(0.0, np.ones(len(gram)))
    found = solve(gram, PRECISION * largest, before.beta * 0)  # zero are duplicates, and channels that do nothing
    while kept.any():
        going = np.flatnonzero(kept & (found.beta == 0))
        order += _smallest_first(gram, going, before, found)
        penalties += [found.alpha] * len(going)
        kept[going] = False
        before, found = found, _next(gram, kept, found)
    return Removals(np.asarray(order, np.int64), np.asarray(penalties))


def _smallest_first(gram: FloatArray, going: NDArray[np.int64], before: Solution, found: Solution) -> list[int]:
    pull = np.abs(gram.sum(1) - gram @ found.beta)
    return [int(each) for each in going[np.lexsort((pull[going], np.abs(before.beta[going])))]]


def _next(gram: FloatArray, kept: NDArray[np.bool_], last: Solution) -> Solution:
    """The next narrower solution, without what is gone."""
    width = int(kept.sum())
    wanted = math.ceil(width / (1 + TOLERANCE)) - 1  # the last solution is too wide for it, tolerance included
    if wanted <= 0:
        return Solution(max(last.alpha, float(np.abs(gram.sum(1)).max())), np.zeros(len(gram)))
    found = to_width(gram, wanted, Solution(last.alpha if last.alpha > 0 else START, last.beta))
    if (found.beta[kept] == 0).any() and found.alpha >= last.alpha:
        return found
    smallest = np.flatnonzero(kept)[np.argmin(np.abs(last.beta[kept]))]
    return Solution(last.alpha, np.where(np.arange(len(gram)) == smallest, 0.0, last.beta))
