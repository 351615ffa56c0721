"""Structured optimal brain surgeon: what it costs to remove the channels of a group one after the other.

Frantar, Alistarh. Optimal Brain Compression. NeurIPS 2022; Kurtic, Frantar, Alistarh. ZipLM. NeurIPS 2023.

For a layer ``Y = M X`` whose rows share the covariance ``S`` of the inputs, removing the columns ``c`` of one channel and
refitting the rest costs ``tr(M_c inv(Sinv_cc) M_c^T)``, with ``Sinv`` the inverse over the columns that are left; updates of
rank ``c`` carry ``M`` and ``Sinv`` to the next step.  Differs: moments are centred, as an intercept takes up the mean; a group
may have several consumers, whose costs, each relative to the energy of its output, are added up; constant channels cost
nothing; what is known of the blocks of a layer too wide for one covariance counts as much as their share of that energy.

Updates are put off: ``Sinv`` and ``M`` are brought up to date once for some dozens of columns, as one large product, and only
what the next choice needs (rows of what is removed, diagonal blocks, products of weights within a channel) at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from shrinkc.api import Consumer, FloatArray
from shrinkc.evidence.moments import ROWS_AT_ONCE
from shrinkc.evidence.regression import ridge_of

Positions = NDArray[np.int64]

CONSTANT = 1e-9
"""Variance, in units of the mean variance, below which a channel is a constant."""

ROUNDING = 1e-6
"""Share of the mean second moment that a covariance is not exact to: large ones are kept in single precision."""

COMPRESS_AT = 0.85
"""Share of living columns below which the matrices are made smaller."""

PUT_OFF = 64
"""Columns that are removed before the matrices are brought up to date."""


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
        covariance = _covariance(consumer)
        self._weight: FloatArray = np.array(consumer.weight, np.float64, order="F")
        energy = float(np.einsum("oc,oc->", self._weight @ covariance, self._weight))
        self._scale = consumer.share.variance / energy if energy > 0 else 0.0
        self._constant = _constants(consumer, np.diag(covariance), width)
        floor = ROUNDING * float(np.diag(consumer.gram).mean())
        covariance[np.diag_indices(len(covariance))] += ridge_of(covariance, consumer.rows) + floor
        self._inverse: FloatArray = _inverse(covariance)
        self._width = width
        self._columns = np.arange(len(consumer.position))
        self._costs: FloatArray | None = None
        self._lay_out(consumer.position.copy())

    def _lay_out(self, position: Positions) -> None:
        self._position = position
        self._blocks = {int(own): np.flatnonzero(position == own) for own in np.unique(position[position >= 0])}
        by_size: dict[int, list[int]] = {}
        for own, block in self._blocks.items():
            by_size.setdefault(len(block), []).append(own)
        self._batches = [_Batch(owns, np.stack([self._blocks[own] for own in owns])) for owns in by_size.values()]
        self._batch_of = {int(own): batch for batch in self._batches for own in batch.owns}
        self._start_anew()

    def _start_anew(self) -> None:
        """Nothing is put off; what is known of single channels is taken from the matrices."""
        self._put_off = _PutOff.nothing(len(self._weight), len(self._position))
        for batch in self._batches:
            batch.read(self._inverse, self._weight)

    def costs(self) -> FloatArray:
        """Cost of removing each position next; zero for those it does not read."""
        if self._costs is None:
            self._costs = np.zeros(self._width)
            for batch in self._batches:
                self._costs[batch.owns] = batch.costs() * self._scale
            self._costs[self._constant] = 0
        return self._costs

    def cost_of(self, position: int) -> float:
        """Cost of removing one position next."""
        if position not in self._blocks or self._constant[position]:
            return 0.0
        return self._batch_of[position].cost_of(position) * self._scale

    def remove(self, position: int) -> None:
        """Take a position's columns out and refit the rest."""
        block = self._blocks.pop(position, None)
        if block is None:
            return
        self._costs = None
        self._position[block] = -2
        lost = self._put_off.inverse_of(self._inverse, block)
        own = self._put_off.weight_of(self._weight, block)
        lost[self._position == -2] = 0  # what is gone is zero up to rounding
        gain = np.linalg.solve(self._block_of(position), lost.T)
        through = own.T @ self._weight - (own.T @ self._put_off.weights) @ self._put_off.gains
        for batch in self._batches:
            batch.update(lost, gain, through, own.T @ own)
        self._batch_of[position].forget(position)
        gain[:, block] = np.eye(len(block))
        self._put_off.add(lost, own, gain, block)
        if self._put_off.count >= PUT_OFF:
            self._catch_up()

    def _block_of(self, position: int) -> FloatArray:
        return self._batch_of[position].inverse_of(position)

    def weight_in(self, columns: int) -> FloatArray:
        """The weight as it is now, laid out in all the columns there were."""
        self._catch_up()
        whole = np.zeros((len(self._weight), columns))
        whole[:, self._columns] = self._weight
        return whole

    def _catch_up(self) -> None:
        """Do what was put off."""
        if not self._put_off.count:
            return
        self._weight = _minus_product(self._weight, self._put_off.weights, self._put_off.gains)
        self._inverse = _minus_product(self._inverse, self._put_off.inverses, self._put_off.gains)
        gone = np.flatnonzero(self._position == -2)
        self._weight[:, gone] = 0
        self._inverse[gone] = 0
        self._inverse[:, gone] = 0
        if len(self._position) - len(gone) < COMPRESS_AT * len(self._position):
            self._compress()
        else:
            self._start_anew()

    def _compress(self) -> None:
        left = np.flatnonzero(self._position != -2)
        self._weight = np.asfortranarray(self._weight[:, left])
        self._inverse = self._inverse[np.ix_(left, left)].T  # symmetric: the same, and laid out as BLAS wants it
        self._columns = self._columns[left]
        self._lay_out(self._position[left])


@dataclass(eq=False)
class _Batch:
    """Positions with equally many columns: their diagonal blocks of the inverse, and products of their weights.

    What is gone has a block of ones and no weights: it costs nothing and disturbs nobody.
    """

    owns: list[int]
    columns: Positions

    def __post_init__(self) -> None:
        self._place = {own: place for place, own in enumerate(self.owns)}
        self._gone = np.zeros(len(self.owns), bool)

    def read(self, inverse: FloatArray, weight: FloatArray) -> None:
        """Take the blocks from whole matrices."""
        self._inverse = inverse[self.columns[:, :, None], self.columns[:, None, :]]
        own = weight.T[self.columns]
        self._products = own @ own.transpose(0, 2, 1)
        self._reset(self._gone)

    def update(self, lost: FloatArray, gain: FloatArray, through: FloatArray, products: FloatArray) -> None:
        """Follow the removal of columns ``S``: ``Sinv -= lost gain`` and ``M -= M_S gain``.

        ``through`` is ``M_S^T M`` and ``products`` is ``M_S^T M_S``.
        """
        gains = gain.T[self.columns]
        self._inverse -= lost[self.columns] @ gains.transpose(0, 2, 1)
        half = (through.T[self.columns] - 0.5 * gains @ products) @ gains.transpose(0, 2, 1)
        self._products -= half + half.transpose(0, 2, 1)

    def forget(self, position: int) -> None:
        """Count a position as gone."""
        self._gone[self._place[position]] = True
        self._reset(slice(self._place[position], self._place[position] + 1))

    def _reset(self, places: NDArray[np.bool_] | slice) -> None:
        self._inverse[places], self._products[places] = np.eye(self.columns.shape[1]), 0

    def inverse_of(self, position: int) -> FloatArray:
        """Diagonal block of one position."""
        block: FloatArray = self._inverse[self._place[position]]
        return block

    def costs(self) -> FloatArray:
        """``tr(M_c inv(Sinv_cc) M_c^T)`` of every position."""
        if self.columns.shape[1] == 1:
            single: FloatArray = self._products[:, 0, 0] / self._inverse[:, 0, 0]
            return single
        several: FloatArray = np.trace(np.linalg.solve(self._inverse, self._products), axis1=1, axis2=2)
        return several

    def cost_of(self, position: int) -> float:
        """The cost of one position."""
        place = self._place[position]
        return float(np.trace(np.linalg.solve(self._inverse[place], self._products[place])))


@dataclass(eq=False)
class _PutOff:
    """Removals that the matrices have not followed yet: ``Sinv - inverses gains`` and ``M - weights gains`` are true."""

    inverses: FloatArray
    weights: FloatArray
    gains: FloatArray

    @staticmethod
    def nothing(outputs: int, columns: int) -> _PutOff:
        return _PutOff(np.zeros((columns, 0)), np.zeros((outputs, 0)), np.zeros((0, columns)))

    @property
    def count(self) -> int:
        """Columns removed."""
        return len(self.gains)

    def inverse_of(self, inverse: FloatArray, block: Positions) -> FloatArray:
        """Columns of the true inverse."""
        true: FloatArray = inverse[:, block] - self.inverses @ self.gains[:, block]
        return true

    def weight_of(self, weight: FloatArray, block: Positions) -> FloatArray:
        """Columns of the true weight."""
        true: FloatArray = weight[:, block] - self.weights @ self.gains[:, block]
        return true

    def add(self, inverse: FloatArray, weight: FloatArray, gain: FloatArray, block: Positions) -> None:
        """Put off one more removal."""
        self.inverses = np.concatenate([self.inverses, inverse], axis=1)
        self.weights = np.concatenate([self.weights, weight], axis=1)
        self.gains = np.concatenate([self.gains, gain])


def _covariance(consumer: Consumer) -> FloatArray:
    """Centred second moment, float64, in a memory of its own."""
    covariance: FloatArray = np.array(consumer.gram, np.float64, order="F")
    for start in range(0, len(covariance), ROWS_AT_ONCE):
        own = slice(start, start + ROWS_AT_ONCE)
        covariance[:, own] -= np.outer(consumer.mean, consumer.mean[own])
    return covariance


def _constants(consumer: Consumer, variance: FloatArray, width: int) -> NDArray[np.bool_]:
    """Positions whose columns do not vary."""
    varies = np.zeros(width, bool)
    varies[consumer.position[(variance > CONSTANT * variance.mean()) & (consumer.position >= 0)]] = True
    return ~varies


def _inverse(matrix: FloatArray) -> FloatArray:
    """Inverse of a positive definite matrix, in its memory."""
    factor, info = linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if info != 0:
        raise np.linalg.LinAlgError("the damped covariance is not positive definite")
    inverse: FloatArray = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)[0]
    for start in range(0, len(inverse), ROWS_AT_ONCE):
        own = slice(start, start + ROWS_AT_ONCE)
        square = inverse[own, own]
        inverse[own, own] = np.tril(square) + np.tril(square, -1).T
        inverse[own, own.stop :] = inverse[own.stop :, own].T
    return inverse


def _minus_product(target: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    """``target - left @ right`` in the memory of ``target``."""
    result: FloatArray = linalg.blas.dgemm(-1.0, left, right, beta=1.0, c=target, overwrite_c=1)
    return result
