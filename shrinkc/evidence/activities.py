"""How active the positions of a group are, as the layers that read them see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shrinkc.analysis.labels import Labels
from shrinkc.api import Consumer, FloatArray


def mean_abs_by_position(consumers: Sequence[Consumer], width: int) -> FloatArray:
    """Mean absolute value over samples and places, relative to the mean of what the same layer reads of the group.

    Layers may read a group before and after a normalisation; relative to their means they can be averaged.

    Returns
    -------
    ndarray of shape (width,), float64; one where no layer reads the position.
    """
    return _mean_over_consumers(consumers, width, lambda consumer: _flat(consumer).mean(1), _relative)


def active_share_by_position(consumers: Sequence[Consumer], width: int) -> FloatArray:
    """Share of samples and places where the value is positive.

    Returns
    -------
    ndarray of shape (width,), float64; one where no layer reads the position.
    """
    return _mean_over_consumers(consumers, width, lambda consumer: 1 - consumer.activity.zero_share, lambda values: values)


def channel_positions(consumer: Consumer) -> Labels:
    """Position in the group of every channel that a layer reads, shape ``(channels,)``, int64; -1 outside it."""
    return consumer.position[:: consumer.taps]


def _flat(consumer: Consumer) -> FloatArray:
    values = consumer.activity.mean_abs
    return values.reshape(len(values), -1)


def _relative(values: FloatArray) -> FloatArray:
    mean = float(np.nanmean(values))
    return values / mean if mean > 0 else values


def _mean_over_consumers(
    consumers: Sequence[Consumer],
    width: int,
    measure: Callable[[Consumer], FloatArray],
    scale: Callable[[FloatArray], FloatArray],
) -> FloatArray:
    total, readers = np.zeros(width), np.zeros(width)
    for consumer in consumers:
        position = channel_positions(consumer)
        is_own = position >= 0
        counts = np.bincount(position[is_own], minlength=width)
        sums = np.bincount(position[is_own], measure(consumer)[is_own], minlength=width)
        means = np.divide(sums, counts, out=np.full(width, np.nan), where=counts > 0)
        total += np.nan_to_num(scale(means))
        readers += counts > 0
    return np.divide(total, readers, out=np.ones(width), where=readers > 0)
