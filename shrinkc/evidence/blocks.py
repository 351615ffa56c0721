"""Blocks of whole input channels, for layers too wide for one matrix of second moments.

The moments of ``d`` columns take ``d^2`` numbers.  Above ``LARGEST_GRAM`` columns the channels are shared out to blocks, of
which as many are made as keep the moments of all blocks together within those of a layer of ``LARGEST_GRAM`` columns.  Only
what channels of one block have to do with each other is known then; METHODS 20.10 (channel-block-diagonal H).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from shrinkc.analysis.labels import Labels

LARGEST_GRAM = 6144
"""Columns whose second moments are kept whole: three hundred megabytes in double precision."""


def is_wide(columns: int) -> bool:
    """Whether a layer of so many columns a group is looked at in blocks."""
    return columns > LARGEST_GRAM


def columns_together(columns: int) -> int:
    """Columns of a layer whose moments are known together, about: all, or those of a block."""
    return min(columns, LARGEST_GRAM**2 // columns or 1)


def note_on(what: str, layers: Collection[str]) -> tuple[str, ...]:
    """Sentence for the report about wide layers, none where there are none."""
    return (f"Layers of more than {LARGEST_GRAM} columns {what}: {', '.join(layers)}.",) if layers else ()


def blocks_of(keys: Labels, taps: int) -> list[Labels]:
    """Share channels out to blocks of about the same size.

    Parameters
    ----------
    keys : ndarray of shape (channels,), int64
        Channels of one key stay together, as they go together; every channel of a negative key stands alone.
    taps : int
        Columns per channel.

    Returns
    -------
    list of ndarray of int64
        Channels of every block, ascending; every channel lies in exactly one.
    """
    columns = len(keys) * taps
    if not is_wide(columns):
        return [np.arange(len(keys))]
    count = -(-columns // columns_together(columns))
    order = np.argsort(keys, kind="stable")
    is_start = np.r_[True, (np.diff(keys[order]) != 0) | (keys[order][1:] < 0)]
    start = np.flatnonzero(is_start)[np.cumsum(is_start) - 1]
    block = start * count // len(keys)
    return [np.sort(order[block == number]) for number in np.unique(block)]


def columns_of(channels: Labels, taps: int) -> Labels:
    """Columns of some channels, in the order of the channels."""
    return (channels[:, None] * taps + np.arange(taps)).reshape(-1)
