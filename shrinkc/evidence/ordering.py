"""From an order of removal to scores that keep it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shrinkc.api import FloatArray
from shrinkc.evidence.elimination import Positions

TIE = 1e-9
"""Least difference between successive scores, relative to the mean one, so that the order can be read off them."""


@dataclass(frozen=True)
class Removals:
    """What goes when.

    Attributes
    ----------
    order : ndarray of shape (width,), int64
        Every position once; the first goes first.
    costs : ndarray of shape (width,), float64
        What each removal costs, in that order; in units of the method.
    """

    order: Positions
    costs: FloatArray

    def scores(self) -> FloatArray:
        """Scores by position that rise strictly along the order, shape ``(width,)``, float64, non-negative.

        A removal that costs less than an earlier one counts as much as that: whoever wants it has to pay for the earlier
        one too.
        """
        rising = np.maximum.accumulate(np.maximum(self.costs, 0.0))
        scores = np.empty(len(self.order))
        scores[self.order] = rising + TIE * (rising.mean() or 1.0) * np.arange(len(rising))
        return scores
