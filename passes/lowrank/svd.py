"""Factors from the weight alone: truncated singular value decomposition.

Eckart, Young. The approximation of one matrix by another of lower rank. Psychometrika 1, 1936: nothing of that rank is nearer
to the weight.  Nothing is said about the outputs, where inputs are correlated or of different size.
"""

from __future__ import annotations

import numpy as np

from shrinkc.factors import Basis, LinearLayer, directions


class Svd:
    """Directions of the weight, the largest singular value first."""

    name = "svd"
    needs_data = False

    def basis(self, layer: LinearLayer) -> Basis:
        """See :class:`shrinkc.factors.Factorization`."""
        return Basis(directions(layer.weight), np.ones_like(layer.gain))
