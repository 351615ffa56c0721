"""Scale of the BatchNormalization that follows a channel.

Liu, Li, Shen, Huang, Yan, Zhang. Learning Efficient Convolutional Networks through Network Slimming. ICCV 2017.  Differs: a
channel that several BatchNormalizations scale has the mean of their magnitudes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.producers import batch_normalization_scales, norms, require_batch_normalization


class BnGamma:
    """Magnitude of gamma; a group without BatchNormalization has scores of one."""

    name = "bn-gamma"
    needs_evidence = False
    is_comparable = True

    def check(self, groups: Sequence[Group]) -> None:
        """See :class:`shrinkc.api.Checking`."""
        require_batch_normalization(groups, self.name)

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        scales = [norms(member, group.width, weights) for member in batch_normalization_scales(group)]
        return np.mean(scales, axis=0) if scales else np.ones(group.width)
