"""ThiNet as published later: orthogonal matching pursuit of the output by the contributions of channels.

Luo, Zhang, Zhou, Xie, Wu, Lin. ThiNet: Pruning CNN Filters for a Thinner Net. TPAMI 2019.  Differs: the Gram of contributions
holds every row, where the paper samples some; a group may have several consumers, each relative to the energy of its
output.  As in the paper, the bias is left out and contributions are not centred.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.contributions import uncentred_gram
from shrinkc.evidence.ordering import Removals

DEPENDENT = 1e-10
"""Share of its energy below which what is new in a channel is rounding."""


class ThiNetB:
    """Decrease of the residual in reverse order of selection; a group without evidence has scores of one."""

    name = "thinet-b"
    needs_evidence = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        consumers = () if evidence is None else evidence.consumers.get(group.name, ())
        if not consumers:
            return np.ones(group.width)
        return pursue(uncentred_gram(consumers, group.width)).scores()


def pursue(gram: FloatArray) -> Removals:
    """Orthogonal matching pursuit of the sum of all contributions.

    Each step takes the position whose multiple fits the residual best, then refits all that were taken; here by a
    Cholesky factor that grows by a column a step.

    Parameters
    ----------
    gram : ndarray of shape (width, width), float64
        Of contributions.

    Returns
    -------
    Removals
        In reverse order of selection; each costs by how much it lowered the squared residual of the best fit, nothing where
        it added nothing.
    """
    width = len(gram)
    norms, new = np.diag(gram).copy(), np.diag(gram).copy()  # squared; of all of a channel, and of what is new in it
    pull = gram.sum(1)  # of the residual at each channel
    factor = np.empty((width, width))
    order, gains, taken = np.empty(width, np.int64), np.zeros(width), np.zeros(width, bool)
    for step in range(width):
        chosen = _best(pull, norms, new, taken)
        order[step], taken[chosen] = chosen, True
        factor[step] = 0
        if new[chosen] > DEPENDENT * norms[chosen]:
            column = (gram[chosen] - factor[:step, chosen] @ factor[:step]) / np.sqrt(new[chosen])
            share = pull[chosen] / np.sqrt(new[chosen])
            factor[step], gains[step] = column, share**2
            pull = pull - share * column
            new = new - column**2
    return Removals(order[::-1], gains[::-1])


def _best(pull: FloatArray, norms: FloatArray, new: FloatArray, taken: NDArray[np.bool_]) -> int:
    """Position with the largest fall of the residual; of those that add nothing, the one with the most energy."""
    is_useful = ~taken & (new > DEPENDENT * norms)
    if not is_useful.any():
        return int(np.argmax(np.where(taken, -1.0, norms)))
    return int(np.argmax(np.where(is_useful, pull**2 / np.where(is_useful, norms, 1.0), -1.0)))
