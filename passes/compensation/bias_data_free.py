"""Bias correction without data: the mean that a removed channel had goes into the biases of the layers that read it.

Nagel, van Baalen, Blankevoort, Welling. Data-Free Quantization. ICCV 2019, section 4.2, here for removed channels: a channel of
mean ``m`` adds ``sum over taps of W[:, c, tap] m`` to every output, which the bias takes up (up to zero padding at the border).
Means come from the BatchNormalization before, see :mod:`shrinkc.evidence.normal_means`.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import FloatArray, Repair, Repaired
from shrinkc.evidence.matching import kept_channels
from shrinkc.evidence.normal_means import channel_means
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.shapes import Shadow

CORRECTED = "Biases of {} layers took up the means of removed channels, told from BatchNormalization."

LEFT_ALONE = "Left as they are, as no BatchNormalization tells what they lost, or they have no bias: {}."


class DataFreeBias:
    """See the module."""

    name = "bias-data-free"
    needs_data = False

    def apply(self, repair: Repair) -> Repaired:
        """See :class:`shrinkc.api.Compensation`."""
        dense = {site.name: site for site in sites_of(repair.analysis.model, repair.analysis.shadow)}
        tensors: list[str] = []
        left_alone: list[str] = []
        for site in sites_of(repair.pruned, Shadow.of(repair.pruned, repair.shapes)):
            original = dense.get(site.name)
            if original is None or _is_whole(site, original):
                continue
            shift = None if site.intercept is None else _shift(original, repair)
            if shift is None:
                left_alone.append(site.name)
            else:
                tensors += site.write_bias(site.bias() + shift.reshape(site.groups, -1))
        notes = [CORRECTED.format(len(tensors))]
        if left_alone:
            notes.append(LEFT_ALONE.format(", ".join(left_alone)))
        return Repaired(tuple(dict.fromkeys(tensors)), notes=tuple(notes))


def _is_whole(site: Site, original: Site) -> bool:
    """Whether a layer reads every channel it read; a depthwise one lost the outputs of those it lost."""
    return original.is_depthwise or site.inputs == original.inputs


def _shift(original: Site, repair: Repair) -> FloatArray | None:
    """Mean of what the removed inputs gave every output that is left."""
    analysis, axis = repair.analysis, original.channel_axis
    inputs, outputs = (kept_channels(analysis, repair.is_kept, value, axis) for value in (original.data, original.output))
    rank = len(analysis.shadow.shape(original.data) or ())
    lost = channel_means(original.data, axis % rank, analysis.model.graph.opset_imports, analysis.shadow).copy()
    if inputs is None or outputs is None:
        return None
    lost[inputs] = 0
    if not np.isfinite(lost).all():
        return None
    by_column = np.repeat(lost.reshape(original.groups, -1), original.taps, axis=1)
    shift: FloatArray = np.einsum("goc,gc->go", original.matrix(), by_column).reshape(-1)[outputs]
    return shift
