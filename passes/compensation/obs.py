"""The update of structured optimal brain surgeon: what is removed is shared out among the inputs that stay.

Frantar, Alistarh. Optimal Brain Compression. NeurIPS 2022; Kurtic, Frantar, Alistarh. ZipLM. NeurIPS 2023.  Removing the
columns ``S`` of a layer one after the other ends at ``M_K + M_S H_SK (H_KK + ridge)^-1``, which is computed at once here, with
``H`` of the original's inputs.  Differs: moments are centred, as the bias takes up the mean.
"""

from __future__ import annotations

from shrinkc.api import Repair, Repaired
from shrinkc.evidence.fitting import fit_layers_apart
from shrinkc.evidence.regression import affine_refit


class ObsUpdate:
    """See the module."""

    name = "obs"
    needs_data = True

    def apply(self, repair: Repair) -> Repaired:
        """See :class:`shrinkc.api.Compensation`."""
        return fit_layers_apart(repair, affine_refit)
