"""From an order of removal to scores that keep it."""

from __future__ import annotations

import numpy as np

from shrinkc.api import FloatArray
from shrinkc.evidence.elimination import Positions

TIE = 1e-9
"""Least difference between successive scores, relative to the mean one, so that the order can be read off them."""


def scores_in_order(order: Positions, costs: FloatArray) -> FloatArray:
    """Scores that rise strictly along an order of removal.

    Parameters
    ----------
    order : ndarray of shape (width,), int64
        Every position once; the first goes first.
    costs : ndarray of shape (width,), float64
        What each removal costs, in that order.  One that is lower than an earlier one counts as much as that: whoever wants
        it has to pay for the earlier one too.

    Returns
    -------
    ndarray of shape (width,), float64, by position; non-negative.
    """
    rising = np.maximum.accumulate(np.maximum(costs, 0.0))
    scores = np.empty(len(order))
    scores[order] = rising + TIE * (rising.mean() or 1.0) * np.arange(len(order))
    return scores
