"""Structured optimal brain surgeon: what it costs to remove the channels of a group one after the other.

Frantar, Alistarh. Optimal Brain Compression. NeurIPS 2022; Kurtic, Frantar, Alistarh. ZipLM. NeurIPS 2023.

For a layer ``Y = M X`` whose rows share the covariance ``S`` of the inputs, removing the columns ``c`` of one channel and
refitting the rest costs ``tr(M_c inv(Sinv_cc) M_c^T)``, with ``Sinv`` the inverse over the columns that are left; updates of
rank ``c`` carry ``M`` and ``Sinv`` to the next step.  Differs: moments are centred, as an intercept takes up the mean; a group
may have several consumers, whose costs, each relative to the energy of its output, are added up; constant channels cost
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from shrinkc.api import Consumer, FloatArray
from shrinkc.evidence.regression import ridge_of

Positions = NDArray[np.int64]

CONSTANT = 1e-9
"""Variance, in units of the mean variance, below which a channel is a constant."""

ROUNDING = 1e-6
"""Share of the mean second moment that a covariance is not exact to: large ones are kept in single precision."""

COMPRESS_AT = 0.85
"""Share of living columns below which the matrices are made smaller."""


@dataclass(frozen=True)
class Elimination:
    """Order of removal of a group's positions, and the error so far.

    Attributes
    ----------
    order : ndarray of shape (width,), int64
        The first goes first.
    errors : ndarray of shape (width + 1,), float64
        ``errors[k]`` is the error after ``k`` removals and the best refit, as a share of the energy of the consumers' outputs,
        summed over consumers; never decreasing.
    """

    order: Positions
    errors: FloatArray


def greedily(consumers: Sequence[Consumer], width: int) -> Elimination:
    """Remove the cheapest position of all that are left, again and again."""
    return _eliminate(consumers, width, None)


def in_order(consumers: Sequence[Consumer], order: Iterable[int]) -> Elimination:
    """Remove positions in a given order."""
    fixed = np.asarray(list(order), np.int64)
    return _eliminate(consumers, len(fixed), fixed)


def _eliminate(consumers: Sequence[Consumer], width: int, fixed: Positions | None) -> Elimination:
    layers = [_Layer(consumer, width) for consumer in consumers]
    alive = np.ones(width, bool)
    order, errors = [], [0.0]
    for step in range(width):
        if fixed is None:
            costs = np.where(alive, np.sum([layer.costs() for layer in layers], axis=0), np.inf)
            chosen = int(np.argmin(costs))
            cost = costs[chosen]
        else:
            chosen = int(fixed[step])
            cost = sum(layer.cost_of(chosen) for layer in layers)
        for layer in layers:
            layer.remove(chosen)
        alive[chosen] = False
        order.append(chosen)
        errors.append(errors[-1] + max(0.0, float(cost)))
    return Elimination(np.asarray(order, np.int64), np.asarray(errors))


def weight_after(consumer: Consumer, removed: Iterable[int]) -> FloatArray:
    """Weight of a consumer once positions were removed and the rest refitted; removed columns are zero."""
    layer = _Layer(consumer, int(consumer.position.max(initial=-1)) + 1)
    for position in removed:
        layer.remove(position)
    return layer.weight_in(len(consumer.position))


def damped(covariance: FloatArray, rows: int) -> FloatArray:
    """Covariance with the ridge that its number of rows asks for, float64."""
    result = np.array(covariance, np.float64, order="F")
    result[np.diag_indices(len(covariance))] += ridge_of(covariance, rows)
    return result


class _Layer:
    """One consumer while channels are taken from it."""

    def __init__(self, consumer: Consumer, width: int) -> None:
        covariance = consumer.gram - np.outer(consumer.mean, consumer.mean)
        energy = float(np.einsum("oc,cd,od->", consumer.weight, covariance, consumer.weight, optimize=True))
        self._scale = 1 / energy if energy > 0 else 0.0
        self._constant = _constants(consumer, covariance, width)
        floor = ROUNDING * float(np.diag(consumer.gram).mean())
        regular = damped(covariance, consumer.rows) + floor * np.eye(len(covariance))
        self._inverse: FloatArray = np.asfortranarray(_inverse(regular))
        self._weight: FloatArray = np.array(consumer.weight, np.float64, order="F")
        self._width = width
        self._columns = np.arange(len(consumer.position))
        self._lay_out(consumer.position.copy())

    def _lay_out(self, position: Positions) -> None:
        self._position = position
        self._blocks = {int(own): np.flatnonzero(position == own) for own in np.unique(position[position >= 0])}
        by_size: dict[int, list[int]] = {}
        for own, block in self._blocks.items():
            by_size.setdefault(len(block), []).append(own)
        self._batches = [(np.asarray(owns), np.stack([self._blocks[own] for own in owns])) for owns in by_size.values()]
        self._living = len(position)

    def costs(self) -> FloatArray:
        """Cost of removing each position next; zero for those it does not read."""
        result = np.zeros(self._width)
        for owns, blocks in self._batches:
            inner = self._inverse[blocks[:, :, None], blocks[:, None, :]]
            own = self._weight[:, blocks].transpose(1, 0, 2)
            result[owns] = np.einsum("nob,nbo->n", own, np.linalg.solve(inner, own.transpose(0, 2, 1))) * self._scale
        result[self._constant] = 0
        return result

    def cost_of(self, position: int) -> float:
        """Cost of removing one position next."""
        block = self._blocks.get(position)
        if block is None or self._constant[position]:
            return 0.0
        own = self._weight[:, block]
        return float(np.sum(own.T * np.linalg.solve(self._inverse[np.ix_(block, block)], own.T))) * self._scale

    def remove(self, position: int) -> None:
        """Take a position's columns out and refit the rest."""
        block = self._blocks.pop(position, None)
        if block is None:
            return
        gain = np.linalg.solve(self._inverse[np.ix_(block, block)], self._inverse[block])
        self._weight = _minus_product(self._weight, self._weight[:, block], gain)
        self._inverse = _minus_product(self._inverse, self._inverse[:, block], gain)
        # What is gone must not be chosen, nor disturb the batches: its diagonal is made one, its weights nothing.
        self._weight[:, block] = 0
        self._inverse[block] = 0
        self._inverse[:, block] = 0
        self._inverse[block, block] = 1
        self._living -= len(block)
        self._position[block] = -2
        if self._living < COMPRESS_AT * len(self._position):
            self._compress()

    def weight_in(self, columns: int) -> FloatArray:
        """The weight as it is now, laid out in all the columns there were."""
        whole = np.zeros((len(self._weight), columns))
        whole[:, self._columns] = self._weight
        return whole

    def _compress(self) -> None:
        left = np.flatnonzero(self._position != -2)
        self._weight = np.asfortranarray(self._weight[:, left])
        self._inverse = np.asfortranarray(self._inverse[np.ix_(left, left)])
        self._columns = self._columns[left]
        self._lay_out(self._position[left])


def _constants(consumer: Consumer, covariance: FloatArray, width: int) -> NDArray[np.bool_]:
    """Positions whose columns do not vary."""
    variance = np.diag(covariance)
    varies = np.zeros(width, bool)
    varies[consumer.position[(variance > CONSTANT * variance.mean()) & (consumer.position >= 0)]] = True
    return ~varies


def _inverse(matrix: FloatArray) -> FloatArray:
    factor, info = linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if info != 0:
        raise np.linalg.LinAlgError("the damped covariance is not positive definite")
    inverse, _ = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    whole: FloatArray = np.tril(inverse) + np.tril(inverse, -1).T
    return whole


def _minus_product(target: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    """``target - left @ right`` in the memory of ``target``."""
    result: FloatArray = linalg.blas.dgemm(-1.0, left, right, beta=1.0, c=target, overwrite_c=1)
    return result
