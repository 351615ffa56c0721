"""Factors from the weight as the BatchNormalization behind it scales it.

Guo et al. LRPET: low-rank projection with energy transfer, section on BN rectification: the singular values of
``diag(gamma / sqrt(var + eps)) M`` say what is lost behind the normalisation.  Differs: gains are kept away from zero instead
of being inverted with a ridge, so that the factors of full rank are exact.
"""

from __future__ import annotations

import numpy as np

from shrinkc.factors import Basis, LinearLayer, directions

LEAST_GAIN = 1e-3
"""Gain, as a share of the layer's largest, that smaller ones are raised to."""


class BatchNormSvd:
    """Directions of the rectified weight; those of the weight itself where no BatchNormalization follows."""

    name = "bn-svd"
    needs_data = False

    def basis(self, layer: LinearLayer) -> Basis:
        """See :class:`shrinkc.factors.Factorization`."""
        floor = LEAST_GAIN * float(np.abs(layer.gain).max()) or 1.0
        gain = np.where(layer.gain < 0, -1.0, 1.0) * np.maximum(np.abs(layer.gain), floor)
        return Basis(directions(layer.weight * gain[:, :, None]), gain)
