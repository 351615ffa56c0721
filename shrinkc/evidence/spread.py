"""Mean and variance of every channel of a value, streamed over batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkc.api import FloatArray


def mean_and_variance(batches: Iterable[NDArray[Any]], axis: int) -> tuple[FloatArray, FloatArray]:
    """Of all entries along the other axes of all batches, each entry counting alike.

    Parameters
    ----------
    batches : iterable of ndarray
    axis : int
        Of the channels.

    Returns
    -------
    two ndarrays of shape (channels,), float64
    """
    count, mean, spread = 0, np.zeros(1), np.zeros(1)
    for batch in batches:
        rows = np.moveaxis(batch, axis, -1).reshape(-1, batch.shape[axis]).astype(np.float64)
        own, step = rows.mean(0), len(rows) / (count + len(rows))
        spread = spread + ((rows - own) ** 2).sum(0) + (own - mean) ** 2 * count * step
        mean = mean + (own - mean) * step
        count += len(rows)
    return mean, spread / count
