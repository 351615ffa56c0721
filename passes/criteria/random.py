"""Random scores: the baseline that every other criterion has to beat."""

from __future__ import annotations

import zlib

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Weights


class Random:
    """Uniform numbers, the same for the same seed and name of the group."""

    name = "random"
    needs_evidence = False
    is_comparable = True

    def __init__(self) -> None:
        self.seed = 0

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        return np.random.default_rng([self.seed, zlib.crc32(group.name.encode())]).random(group.width)
