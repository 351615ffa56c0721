"""Scale of the BatchNormalization that follows a channel times the norm of the weights that read it.

After Liu et al., Network Slimming, ICCV 2017: a gamma says little where the next layer multiplies the channel by anything.  The
product does not change when a channel is scaled and its readers are scaled back, as long as nothing but a ReLU lies between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Role, Weights
from shrinkc.evidence.producers import batch_normalization_scales, norms, require_batch_normalization


class BnGammaOut:
    """Magnitude of gamma times the norm of all slices that read the channel; ones without BatchNormalization."""

    name = "bn-gamma-out"
    needs_evidence = False
    is_comparable = True

    def check(self, groups: Sequence[Group]) -> None:
        """See :class:`shrinkc.api.Checking`."""
        require_batch_normalization(groups, self.name)

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        scales = [norms(member, group.width, weights) for member in batch_normalization_scales(group)]
        if not scales:
            return np.ones(group.width)
        readers = [norms(member, group.width, weights) for member in group.members if member.role is Role.CONSUMES]
        product: FloatArray = np.mean(scales, axis=0) * (np.linalg.norm(readers, axis=0) if readers else 1.0)
        return product
