"""Which channels of a value of the original are left in the cut network."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc.analysis.groups import Analysis, BoolArray

Channels = NDArray[np.int64]
"""Indices of channels, sorted."""


def kept_channels(analysis: Analysis, is_kept: BoolArray, value: ir.Value, axis: int) -> Channels | None:
    """Indices along an axis that are left, None where that depends on the place along other axes.

    Parameters
    ----------
    analysis : Analysis
        Of the original.
    is_kept : ndarray of bool
        See :meth:`shrinkc.analysis.groups.Analysis.keep_mask`.
    value : ir.Value
        Of the original.
    axis : int
    """
    classes, shape = analysis.classes_of(value), analysis.shadow.shape(value)
    if classes is None or shape is None:
        return None
    kept = np.moveaxis(is_kept[classes], axis, -1)
    kept = np.broadcast_to(kept, (*kept.shape[:-1], shape[axis])).reshape(-1, shape[axis])
    return np.flatnonzero(kept[0]) if (kept == kept[0]).all() else None
