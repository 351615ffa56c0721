"""LASSO on a Gram matrix of contributions, and the schedule that finds the penalty for a width.

He, Zhang, Sun. Channel Pruning for Accelerating Very Deep Neural Networks. ICCV 2017, its first step.

Minimises ``1/2 b^T G b - (G 1)^T b + alpha ||b||_1``, that is ``1/2 ||y - Z b||^2 + alpha ||b||_1`` up to a constant, with
``y = Z 1``; ``b = 1`` solves it for ``alpha = 0``.  Differs: the Gram holds every row, where the official code samples some;
where signs are settled, coordinate descent is cut short by solving for the values that go with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shrinkc.api import FloatArray

START = 1e-3
"""First penalty that is tried, in units of the Gram (a share of the outputs' energy)."""

TOLERANCE = 0.1
"""A width is met by a solution of up to so many more, as a share of it."""

STEPS = 40
"""Bisections; the number of nonzeros need not fall with the penalty everywhere."""

PRECISION = 1e-9
"""Violation of the optimality conditions that is left, in units of the largest correlation."""

SWEEPS, ROUNDS = 8, 60
"""Sweeps of coordinate descent between two attempts to solve for settled signs, and such attempts."""

SAME = 1 - 1e-9
"""Cosine of contributions from which on two channels are one."""


@dataclass(frozen=True)
class Solution:
    """Coefficients for one penalty.

    Attributes
    ----------
    alpha : float
    beta : ndarray of shape (width,), float64
    """

    alpha: float
    beta: FloatArray

    @property
    def width(self) -> int:
        """Number of coefficients that are not zero."""
        return int(np.count_nonzero(self.beta))


def solve(gram: FloatArray, alpha: float, start: FloatArray) -> Solution:
    """Coefficients for one penalty, warm-started.

    Channels come into play only where the optimality conditions ask for it, and of several that are the same only one: a
    duplicate of a channel in play never does.

    Parameters
    ----------
    gram : ndarray of shape (width, width), float64
    alpha : float
        Penalty, positive.
    start : ndarray of shape (width,)
    """
    wanted = gram.sum(1)
    slack = PRECISION * float(np.abs(wanted).max())
    beta = np.where(np.diag(gram) > 0, start, 0.0)
    for _ in range(len(gram) + STEPS):
        active = np.flatnonzero(beta)
        beta[active] = _descend(gram[np.ix_(active, active)], wanted[active], alpha, beta[active], slack)
        gradient = wanted - gram @ beta
        violation = np.where(beta == 0, np.abs(gradient) - alpha, 0.0)
        if violation.max() <= slack:
            break
        joining = _distinct(gram, violation, slack)
        beta[joining] = np.copysign(np.finfo(float).tiny, gradient[joining])
    return Solution(alpha, beta)


def _distinct(gram: FloatArray, violation: FloatArray, slack: float) -> NDArray[np.int64]:
    """Positions that violate the conditions, the worst first, without those that are the same as a worse one."""
    found = np.argsort(-violation, kind="stable")[: int((violation > slack).sum())]
    norm = np.sqrt(np.diag(gram)[found])
    is_same = np.triu(np.abs(gram[np.ix_(found, found)]) > SAME * np.outer(norm, norm), 1).any(0)
    return found[~is_same]


def _descend(gram: FloatArray, wanted: FloatArray, alpha: float, beta: FloatArray, slack: float) -> FloatArray:
    """Coefficients of the channels in play."""
    for _ in range(ROUNDS):
        settled = _solve_for_signs(gram, wanted, alpha, beta, slack)
        if settled is not None:
            return settled
        beta, change = _sweep(gram, wanted, alpha, beta)
        if change <= slack:
            break
    return beta


def _solve_for_signs(gram: FloatArray, wanted: FloatArray, alpha: float, beta: FloatArray, slack: float) -> FloatArray | None:
    """The optimum if the signs of ``beta`` are its signs, else None."""
    live = np.flatnonzero(beta)
    signs = np.sign(beta[live])
    try:
        values = np.linalg.solve(gram[np.ix_(live, live)], wanted[live] - alpha * signs)
    except np.linalg.LinAlgError:
        return None
    result = np.zeros_like(beta)
    result[live] = values
    is_optimal = (values * signs > 0).all() and (np.abs(wanted - gram @ result) <= alpha + slack).all()
    return result if is_optimal else None


def _sweep(gram: FloatArray, wanted: FloatArray, alpha: float, start: FloatArray) -> tuple[FloatArray, float]:
    """A few rounds of coordinate descent, and the largest change of a correlation in the last one."""
    beta, diagonal = start.tolist(), np.diag(gram).tolist()
    gradient = wanted - gram @ start
    change = 0.0
    for _ in range(SWEEPS):
        change = 0.0
        for own, norm in enumerate(diagonal):
            pull = float(gradient[own]) + norm * beta[own]
            new = max(abs(pull) - alpha, 0.0) / norm * (1 if pull > 0 else -1)
            if new != beta[own]:
                change = max(change, norm * abs(new - beta[own]))
                gradient -= gram[own] * (new - beta[own])
                beta[own] = new
    return np.asarray(beta), change


def to_width(gram: FloatArray, width: int, start: Solution) -> Solution:
    """Solution with ``width`` nonzeros or up to a tenth more: the official schedule.

    The penalty is doubled until fewer are left, then bisected.  After :data:`STEPS` bisections it is the smallest that is
    wide enough, of which the largest coefficients are to be taken.

    Parameters
    ----------
    gram : ndarray of shape (channels, channels), float64
    width : int
    start : Solution
        Of another width; its penalty is where the search begins.
    """
    found, low, high = Solution(0.0, np.ones(len(gram))), 0.0, start.alpha
    latest = solve(gram, high, start.beta)
    while latest.width >= width:
        found, high = latest, high * 2
        latest = solve(gram, high, latest.beta)
    low = found.alpha
    for _ in range(STEPS):
        if width <= found.width <= width * (1 + TOLERANCE):
            return found
        latest = solve(gram, (low + high) / 2, latest.beta)
        if latest.width >= width:
            found, low = latest, latest.alpha
        else:
            high = latest.alpha
    return found
