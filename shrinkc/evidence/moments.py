"""First and second moments of what layers read, and of what they are asked to give, streamed over batches.

METHODS: one pass of these serves ThiNet, LASSO, structured OBS, refits, bias correction and whitened SVD alike.  Products of
one batch are made in float32, of deviations from the first batch's mean, so that little is lost where means are large beside
what varies; sums over batches are in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shrinkc.api import CrossMoments, FloatArray, Moments

CHUNK_BYTES = 32 << 20
"""Rows are collected up to this size before they are multiplied: few large products are faster than many small ones."""

ROWS_AT_ONCE = 256
"""Rows of a large matrix that are changed at a time, so that no second one is made beside it."""


class MomentsOf:
    """Accumulates the moments of inputs given batch by batch."""

    def __init__(self) -> None:
        self._rows = 0
        self._center: FloatArray | None = None
        self._sum: FloatArray | None = None
        self._product: FloatArray | None = None
        self._waiting: list[FloatArray] = []

    def add(self, inputs: FloatArray) -> None:
        """Add rows of inputs, shape ``(groups, rows, columns)``."""
        self._waiting.append(inputs)
        if sum(part.nbytes for part in self._waiting) >= CHUNK_BYTES:
            self._multiply()

    def deviations(self, inputs: FloatArray) -> FloatArray:
        """Rows without the very first one: sums stay small, and what never varies is zero to the last bit."""
        if self._center is None:
            self._center = inputs[:, 0].copy()
        return inputs - self._center[:, None]

    def add_deviations(self, deviations: FloatArray) -> None:
        """Like :meth:`add`, for who has the deviations already."""
        self._rows += deviations.shape[1]
        self._sum = _plus(self._sum, _sums(deviations))
        self._product = _plus(self._product, np.matmul(deviations.transpose(0, 2, 1), deviations))

    def center(self) -> FloatArray:
        """What deviations are from, shape ``(groups, columns)``, float64."""
        if self._center is None:
            raise ValueError("no rows were added")
        return self._center.astype(np.float64)

    def result(self) -> Moments:
        """Moments of everything added; nothing can be added afterwards."""
        self._multiply()
        center = self.center()
        product, self._product = self._product, None
        if self._sum is None or product is None:
            raise ValueError("no rows were added")
        mean = center + self._sum / self._rows
        product /= self._rows
        return Moments(self._rows, mean, _uncentered(product, center, center, mean, mean))

    def _multiply(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self.add_deviations(self._deviations_of(waiting))

    def _deviations_of(self, parts: Sequence[FloatArray]) -> FloatArray:
        """Deviations of several parts side by side, without another copy of them."""
        if self._center is None:
            self._center = parts[0][:, 0].copy()
        groups, _, columns = parts[0].shape
        deviations = np.empty((groups, sum(part.shape[1] for part in parts), columns), parts[0].dtype)
        start = 0
        for part in parts:
            np.subtract(part, self._center[:, None], out=deviations[:, start : start + part.shape[1]])
            start += part.shape[1]
        return deviations


class CrossMomentsOf:
    """Accumulates the moments of inputs and targets given batch by batch."""

    def __init__(self) -> None:
        self._inputs, self._targets = MomentsOf(), _Sums()
        self._product: FloatArray | None = None

    def add(self, inputs: FloatArray, targets: FloatArray) -> None:
        """Add rows of inputs ``(groups, rows, columns)`` with their targets ``(groups, rows, outputs)``."""
        deviations = self._inputs.deviations(inputs)
        self._inputs.add_deviations(deviations)
        self._product = _plus(self._product, np.matmul(self._targets.add(targets).transpose(0, 2, 1), deviations))

    def result(self) -> CrossMoments:
        """Moments of everything added."""
        inputs = self._inputs.result()
        center, mean, square = self._targets.result()
        if self._product is None:
            raise ValueError("no rows were added")
        self._product /= inputs.rows
        cross = _uncentered(self._product, center, self._inputs.center(), mean, inputs.mean)
        return CrossMoments(inputs, mean, square, cross)


class _Sums:
    """First moments of targets and their squares."""

    def __init__(self) -> None:
        self._rows = 0
        self._center: FloatArray | None = None
        self._sum: FloatArray | None = None
        self._square: FloatArray | None = None

    def add(self, targets: FloatArray) -> FloatArray:
        """Add rows; returns them without the very first one."""
        if self._center is None:
            self._center = targets[:, 0].copy()
        deviations: FloatArray = targets - self._center[:, None]
        self._rows += targets.shape[1]
        self._sum = _plus(self._sum, _sums(deviations))
        self._square = _plus(self._square, np.square(targets, dtype=np.float64).sum(1))
        return deviations

    def result(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What deviations are from, mean, and mean square."""
        if self._center is None or self._sum is None or self._square is None:
            raise ValueError("no rows were added")
        center = self._center.astype(np.float64)
        return center, center + self._sum / self._rows, self._square / self._rows


def _uncentered(
    product: FloatArray, left_center: FloatArray, right_center: FloatArray, left_mean: FloatArray, right_mean: FloatArray
) -> FloatArray:
    """``E[a b^T]`` from ``E[(a - s)(b - t)^T]``, the centers ``s`` and ``t`` and the means, in the memory of the product."""
    change = left_mean - left_center
    for start in range(0, product.shape[1], ROWS_AT_ONCE):
        own = slice(start, start + ROWS_AT_ONCE)
        product[:, own] += left_center[:, own, None] * right_mean[:, None, :]
        product[:, own] += change[:, own, None] * right_center[:, None, :]
    return product


def _sums(values: FloatArray) -> FloatArray:
    """Sum over the rows, as a product: many times faster than adding up an axis in the middle."""
    total: FloatArray = np.matmul(np.ones((1, values.shape[1]), values.dtype), values)[:, 0]
    return total


def _plus(total: FloatArray | None, part: FloatArray) -> FloatArray:
    if total is None:
        return part.astype(np.float64)
    total += part
    return total
