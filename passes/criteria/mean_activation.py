"""Mean absolute activation.

Tan, Motani. DropNet: Reducing Neural Network Complexity via Iterative Pruning. ICML 2020, metric "minimum_layer": scores are
relative to the layer, as the paper finds a ranking by raw activations worse than chance in deep nets.  Differs: values are
those that the next layers read, after whatever pools or normalises them; the mean is over all of these layers.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.activities import mean_abs_by_position


class MeanActivation:
    """Mean absolute value, relative to the group's; a group without evidence has scores of one."""

    name = "mean-activation"
    needs_evidence = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        consumers = () if evidence is None else evidence.consumers.get(group.name, ())
        return mean_abs_by_position(consumers, group.width) if consumers else np.ones(group.width)
