"""Filters near the geometric median of their layer: the others can stand in for them.

He, Liu, Wang, Hu, Yang. Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration. CVPR 2019:
the sum of the Euclidean distances to all filters of the layer.  Differs: a group with several producers takes the mean of
their sums, each relative to the producer's mean.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.producers import filters, producers, relative


class GeometricMedian:
    """Mean over producers of the relative sum of distances to the other filters."""

    name = "geometric-median"
    needs_evidence = False
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        width = group.width
        return relative((distances(filters(member, width, weights)).sum(1) for member in producers(group)), width)


def distances(rows: FloatArray) -> FloatArray:
    """Euclidean distances between rows, shape ``(rows, rows)``; through inner products, so that BLAS does the work."""
    squares = np.einsum("ij,ij->i", rows, rows)
    squared = squares[:, None] + squares[None] - 2 * (rows @ rows.T)
    np.fill_diagonal(squared, 0.0)
    result: FloatArray = np.sqrt(np.maximum(squared, 0.0))
    return result
