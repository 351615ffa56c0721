"""First-order Taylor expansion of the loss.

Molchanov, Mallya, Tyree, Frosio, Kautz. Importance Estimation for Neural Network Pruning. CVPR 2019: the square of the
sum over a channel's weights of weight times gradient of the loss.  Differs: what the producers of a coupled group add is
summed before it is squared, as they go together.
"""

from __future__ import annotations

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.sensitivities import first_order


class Taylor:
    """Squared first-order change of the mean loss when a channel goes."""

    name = "taylor"
    needs_evidence = False  # gradients will do
    needs_gradients = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`; raises RecipeError without gradients of the producers."""
        change: FloatArray = first_order(group, weights, evidence).mean(0) ** 2
        return change
