"""ThiNet's scales: one factor per input channel of every layer.

Luo, Wu, Lin. ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression. ICCV 2017, section 3.3, "minimize the
reconstruction error".  Differs: exact moments in place of sampled equations; inputs from the cut network, so errors do not
add up; a small ridge towards one; groups of a convolution have factors of their own.
"""

from __future__ import annotations

from shrinkc.api import Repair, Repaired
from shrinkc.evidence.fitting import fit_layers
from shrinkc.evidence.regression import scale


class Scale:
    """See the module."""

    name = "scale"
    needs_data = True

    def apply(self, repair: Repair) -> Repaired:
        """See :class:`shrinkc.api.Compensation`."""
        return fit_layers(repair, scale)
