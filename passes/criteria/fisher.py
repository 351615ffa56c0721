"""Empirical Fisher information of a channel's gate.

Theis, Korshunova, Tejani, Huszár. Faster gaze prediction with dense networks and Fisher pruning. 2018 (arXiv 1801.05787): the
mean over samples of the squared derivative of the loss by a factor on the channel, that is of the sum over its weights of
weight times gradient.  Differs: the half of the paper is left out; the derivative does not see the channel's bias.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.sensitivities import first_order


class Fisher:
    """Mean over samples of the squared first-order change of the loss when a channel goes."""

    name = "fisher"
    needs_evidence = False  # gradients will do
    needs_gradients = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`; raises RecipeError without gradients of the producers."""
        information: FloatArray = np.square(first_order(group, weights, evidence)).mean(0)
        return information
