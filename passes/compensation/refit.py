"""Least-squares refit of every layer's weight, its bias kept.

He, Zhang, Sun. Channel Pruning for Accelerating Very Deep Neural Networks. ICCV 2017, second step.  Differs: a ridge pulls
towards the weights there were, not towards nothing; exact moments in place of sampled equations; queries and keys that lost
dims inside heads are coupled on the way, see :mod:`shrinkc.evidence.coupling`.
"""

from __future__ import annotations

from shrinkc.api import Repair, Repaired
from shrinkc.evidence.fitting import fit_network
from shrinkc.evidence.regression import refit


class Refit:
    """See the module."""

    name = "refit"
    needs_data = True

    def apply(self, repair: Repair) -> Repaired:
        """See :class:`shrinkc.api.Compensation`."""
        return fit_network(repair, refit)
