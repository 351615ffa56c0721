"""What each channel contributes to the outputs of the layers that read it, as one small Gram matrix.

``Z[(n, o), c]`` is what channel ``c`` adds to output ``o`` in row ``n``, the sum over its columns of weight times input.
ThiNet and LASSO sample rows of ``Z``; its Gram ``G = Z^T Z`` is the Hadamard product of ``M^T M`` and the moment of the inputs,
summed over the columns of each pair of channels, so that every row is counted and none is drawn.  What a group contributes
altogether is ``y = Z 1``, hence ``Z^T y = G 1`` and ``y^T y = 1^T G 1``: the Gram says it all.  What channels outside the group
add stays, whatever is removed, and is no part of ``y``.

Several consumers: each Gram is divided by the energy of its layer's output, then they are summed.  Blocks of a layer too wide
for one matrix of moments count as much as their share of that energy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from shrinkc.api import Consumer, FloatArray

BLOCK = 512
"""Columns that are looked at together: no matrix of all columns by all columns is made beside the moments."""

Rows = Callable[[slice], FloatArray]


def uncentred_gram(consumers: Sequence[Consumer], width: int) -> FloatArray:
    """Gram of contributions as they are: for methods that leave the bias alone.

    Parameters
    ----------
    consumers : sequence of Consumer
    width : int
        Positions of the group.

    Returns
    -------
    ndarray of shape (width, width), float64, a share of the energy of the outputs (bias aside); symmetric.
    """
    return _summed([each.share.energy * _relative(each, each.gram.__getitem__, width) for each in consumers], width)


def centred_gram(consumers: Sequence[Consumer], width: int) -> FloatArray:
    """Gram of contributions less their means over the rows: for methods that fit an intercept per output.

    Parameters
    ----------
    consumers : sequence of Consumer
    width : int
        Positions of the group.

    Returns
    -------
    ndarray of shape (width, width), float64, a share of the variance of the outputs; symmetric.
    """
    return _summed([each.share.variance * _relative(each, _covariance_rows(each), width) for each in consumers], width)


def by_position(consumer: Consumer, width: int) -> sparse.csc_array:
    """Matrix of ones, shape ``(width, columns)``, that sums the columns behind each position."""
    columns = np.flatnonzero(consumer.position >= 0)
    places = (consumer.position[columns], columns)
    return sparse.csc_array((np.ones(len(columns)), places), shape=(width, len(consumer.position)))


def _covariance_rows(consumer: Consumer) -> Rows:
    return lambda rows: consumer.gram[rows] - np.outer(consumer.mean[rows], consumer.mean)


def _summed(grams: Sequence[FloatArray], width: int) -> FloatArray:
    return np.sum(grams, axis=0) if grams else np.zeros((width, width))


def _relative(consumer: Consumer, moment: Rows, width: int) -> FloatArray:
    total, energy = np.zeros((width, width)), 0.0
    summing = by_position(consumer, width)
    weight = np.asarray(consumer.weight, np.float64)
    for start in range(0, weight.shape[1], BLOCK):
        rows = slice(start, start + BLOCK)
        block = weight[:, rows].T @ weight
        block *= moment(rows)
        energy += float(block.sum())
        total += summing[:, rows] @ (summing @ block.T).T
    return (total + total.T) * (0.5 / energy) if energy > 0 else np.zeros((width, width))
