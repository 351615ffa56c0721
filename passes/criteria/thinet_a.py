"""ThiNet as first published: channels go whose contributions, together, are smallest.

Luo, Wu, Lin. ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression. ICCV 2017, algorithm 1.
Differs: the Gram of contributions holds every row, where the paper samples some; a group may have several consumers, each
relative to the energy of its output.  As in the paper, the bias is left out and contributions are not centred.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.contributions import uncentred_gram
from shrinkc.evidence.ordering import Removals


class ThiNetA:
    """Growth of the squared norm of what has been removed, greedily; a group without evidence has scores of one."""

    name = "thinet-a"
    needs_evidence = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        consumers = () if evidence is None else evidence.consumers.get(group.name, ())
        if not consumers:
            return np.ones(group.width)
        return backwards(uncentred_gram(consumers, group.width)).scores()


def backwards(gram: FloatArray) -> Removals:
    """Backward elimination without refit.

    Parameters
    ----------
    gram : ndarray of shape (width, width), float64
        Of contributions.

    Returns
    -------
    Removals
        Each costs what it adds to the squared norm of the sum of all that is gone; less than nothing where two cancel.
    """
    width = len(gram)
    growth = np.diag(gram).copy()  # by each position that could go next
    order, costs = np.empty(width, np.int64), np.empty(width)
    for step in range(width):
        chosen = int(np.argmin(growth))
        order[step], costs[step] = chosen, growth[chosen]
        growth += 2 * gram[chosen]
        growth[chosen] = np.inf
    return Removals(order, costs)
