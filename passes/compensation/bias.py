"""Bias correction: every layer's output keeps its mean.

Nagel, van Baalen, Blankevoort, Welling. Data-Free Quantization. ICCV 2019, section 4.2, here for removed channels and with the
mean measured in the cut network: ``b' = E[y] - M E[x]``.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import Fit, Layer, Repair, Repaired
from shrinkc.evidence.fitting import fit_layers


class BiasCorrection:
    """See the module."""

    name = "bias"
    needs_data = True

    def apply(self, repair: Repair) -> Repaired:
        """See :class:`shrinkc.api.Compensation`."""
        return fit_layers(repair, self.fit)

    def fit(self, layer: Layer) -> Fit:
        """Same weight, another bias."""
        if not layer.can_shift:
            return Fit(layer.weight, layer.bias)
        given = np.einsum("goc,gc->go", layer.weight, layer.moments.inputs.mean)
        return Fit(layer.weight, layer.moments.mean - given)
