"""Average percentage of zeros.

Hu, Peng, Tai, Tang. Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures. 2016.
Differs: values below zero count as zeros (the paper looks at what a ReLU gives); values are those that the next layers
read, a mean over these layers.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.activities import active_share_by_position


class Apoz:
    """Share of values that are not zero; a group without evidence has scores of one."""

    name = "apoz"
    needs_evidence = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        consumers = () if evidence is None else evidence.consumers.get(group.name, ())
        return active_share_by_position(consumers, group.width) if consumers else np.ones(group.width)
