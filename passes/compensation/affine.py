"""Least-squares refit of every layer's weight and bias together.

METHODS: affine compensation (CORP, arXiv 2602.05243); the same as :mod:`refit` on centred moments, which matters as activations
are hardly ever centred.  A layer without a place for a bias gets the plain refit.  Queries and keys that lost dims inside
heads are coupled on the way, see :mod:`shrinkc.evidence.coupling`.
"""

from __future__ import annotations

from shrinkc.api import Repair, Repaired
from shrinkc.evidence.fitting import fit_network
from shrinkc.evidence.regression import affine_refit


class Affine:
    """See the module."""

    name = "affine"
    needs_data = True

    def apply(self, repair: Repair) -> Repaired:
        """See :class:`shrinkc.api.Compensation`."""
        return fit_network(repair, affine_refit)
