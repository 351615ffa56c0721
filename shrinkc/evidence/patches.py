"""What a layer multiplies its weight with: one row a sample and position, one column an input channel and tap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from shrinkc.api import FloatArray, Windows
from shrinkc.evidence.sites import Site

Array = NDArray[Any]
Positions = NDArray[np.int64]

PART_BYTES = 32 << 20
"""Rows that are laid out at a time, where they can be had sample by sample."""


def columns(site: Site, data: Array, positions: Positions | None = None) -> FloatArray:
    """Rows of inputs of every group.

    Parameters
    ----------
    site : Site
    data : ndarray of shape (N, C, ...) for a convolution, (..., C) for a matrix product
        What the layer reads.
    positions : ndarray of int, optional
        Output positions to take (flat, the same for every sample); all of them by default.

    Returns
    -------
    ndarray of shape (groups, rows, columns), float32 or wider
        Rows are ordered as in :func:`rows`.
    """
    data = data if data.dtype in (np.float32, np.float64) else data.astype(np.float32)
    if site.windows is None:
        flat = data.reshape(1, -1, data.shape[-1])
        return flat if positions is None else flat[:, positions]
    n, channels = data.shape[:2]
    windows = _every_window(data, site.windows) if positions is None else _windows_at(data, site.windows, positions)
    per_group = channels // site.groups
    grouped = windows.reshape(n, site.groups, per_group, windows.shape[2], site.taps)
    return grouped.transpose(1, 0, 3, 2, 4).reshape(site.groups, -1, per_group * site.taps)


def _every_window(data: Array, windows: Windows) -> Array:
    """Windows of all positions: ``(N, C, positions, taps)``."""
    view = windows_over(data, windows)
    return view.reshape(*data.shape[:2], -1, math.prod(windows.kernel))


def _windows_at(data: Array, windows: Windows, positions: Positions) -> Array:
    """Windows of some positions: ``(N, C, positions, taps)``; nothing else is padded or moved."""
    sizes = data.shape[2:]
    starts = np.unravel_index(positions, output_sizes(sizes, windows))
    taps = np.unravel_index(np.arange(math.prod(windows.kernel)), windows.kernel)
    places = [
        start[:, None] * stride - pads[0] + tap * dilation
        for start, stride, pads, tap, dilation in zip(
            starts, windows.strides, windows.pads, taps, windows.dilations, strict=True
        )
    ]
    is_padding = np.any([(place < 0) | (place >= size) for place, size in zip(places, sizes, strict=True)], axis=0)
    taken: Array = data.reshape(*data.shape[:2], -1).take(np.ravel_multi_index(places, sizes, mode="clip"), axis=2)
    taken[:, :, is_padding] = 0
    return taken


def columns_in_parts(site: Site, data: Array, positions: Positions | None = None) -> Iterator[FloatArray]:
    """Rows as :func:`columns` gives them, a few samples at a time, which is what bounds memory."""
    if site.windows is None:
        yield columns(site, data, positions)
        return
    taken = n_positions(site, data) if positions is None else len(positions)
    samples = max(1, PART_BYTES // (4 * taken * site.inputs * site.taps))
    for start in range(0, len(data), samples):
        yield columns(site, data[start : start + samples], positions)


def windows_over(data: Array, windows: Windows) -> Array:
    """View of every window: ``(N, C, positions..., taps...)``."""
    padded = np.pad(data, ((0, 0), (0, 0), *windows.pads)) if any(map(any, windows.pads)) else data
    spans = [dilation * (size - 1) + 1 for size, dilation in zip(windows.kernel, windows.dilations, strict=True)]
    axes = tuple(range(2, data.ndim))
    view = sliding_window_view(padded, spans, axis=axes)
    steps = [slice(None, None, stride) for stride in windows.strides]
    taps = [slice(None, None, dilation) for dilation in windows.dilations]
    return view[(slice(None), slice(None), *steps, *taps)]


def rows(site: Site, output: Array, positions: Positions | None = None) -> FloatArray:
    """Rows of outputs of every group, shape ``(groups, rows, outputs per group)``, in the order of :func:`columns`."""
    if site.windows is None:
        flat = output.reshape(1, -1, output.shape[-1])
        return flat if positions is None else flat[:, positions]
    n, channels = output.shape[:2]
    grouped = output.reshape(n, site.groups, channels // site.groups, -1)
    if positions is not None:
        grouped = grouped[..., positions]
    return grouped.transpose(1, 0, 3, 2).reshape(site.groups, -1, channels // site.groups)


def n_positions(site: Site, data: Array) -> int:
    """Number of output positions to choose from: of one sample for a convolution, of the whole batch for a product."""
    if site.windows is None:
        return int(data.size // data.shape[-1])
    return math.prod(output_sizes(data.shape[2:], site.windows))


def output_sizes(sizes: Sequence[int], windows: Windows) -> tuple[int, ...]:
    """Number of positions along every axis."""
    return tuple(
        (size + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1
        for size, pads, dilation, kernel, stride in zip(
            sizes, windows.pads, windows.dilations, windows.kernel, windows.strides, strict=True
        )
    )
