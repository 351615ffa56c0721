"""ThiNet as first published: channels go whose contributions, together, are smallest.

Luo, Wu, Lin. ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression. ICCV 2017, algorithm 1.
Differs: the Gram of contributions holds every row, where the paper samples some; a group may have several consumers, each
relative to the energy of its output.  As in the paper, the bias is left out and contributions are not centred.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.contributions import uncentred_gram
from shrinkc.evidence.elimination import Elimination
from shrinkc.evidence.ordering import scores_in_order


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
        elimination = backwards(uncentred_gram(consumers, group.width))
        return scores_in_order(elimination.order, np.diff(elimination.errors))


def backwards(gram: FloatArray) -> Elimination:
    """Backward elimination without refit.

    Parameters
    ----------
    gram : ndarray of shape (width, width), float64
        Of contributions.

    Returns
    -------
    Elimination
        ``errors[k]`` is the squared norm of the sum of the first ``k`` contributions; it can fall where two cancel.
    """
    width = len(gram)
    costs = np.diag(gram).copy()  # of adding each position to what has been removed
    order = np.empty(width, np.int64)
    errors = np.zeros(width + 1)
    for step in range(width):
        chosen = int(np.argmin(costs))
        order[step], errors[step + 1] = chosen, errors[step] + costs[chosen]
        costs += 2 * gram[chosen]
        costs[chosen] = np.inf
    return Elimination(order, errors)
