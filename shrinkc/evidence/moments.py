"""First and second moments of what layers read, and of what they are asked to give, streamed over batches.

METHODS: one pass of these serves ThiNet, LASSO, structured OBS, refits, bias correction and whitened SVD alike.  Products of
one batch are made in float32, sums over batches in float64.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import CrossMoments, FloatArray, Moments

CHUNK_BYTES = 32 << 20
"""Rows are collected up to this size before they are multiplied: few large products are faster than many small ones."""


class MomentsOf:
    """Accumulates the moments of inputs given batch by batch."""

    def __init__(self) -> None:
        self._rows = 0
        self._sum: FloatArray | None = None
        self._gram: FloatArray | None = None
        self._waiting: list[FloatArray] = []

    def add(self, inputs: FloatArray) -> None:
        """Add rows of inputs, shape ``(groups, rows, columns)``."""
        self._waiting.append(inputs)
        if sum(part.nbytes for part in self._waiting) >= CHUNK_BYTES:
            self._multiply()

    def result(self) -> Moments:
        """Moments of everything added."""
        self._multiply()
        if self._sum is None or self._gram is None:
            raise ValueError("no rows were added")
        return Moments(self._rows, self._sum / self._rows, self._gram / self._rows)

    def _multiply(self) -> None:
        if self._waiting:
            inputs = np.concatenate(self._waiting, axis=1)
            self._waiting = []
            self._rows += inputs.shape[1]
            self._sum = _plus(self._sum, _sums(inputs))
            self._gram = _plus(self._gram, np.matmul(inputs.transpose(0, 2, 1), inputs))


class CrossMomentsOf:
    """Accumulates the moments of inputs and targets given batch by batch."""

    def __init__(self) -> None:
        self._inputs = MomentsOf()
        self._rows = 0
        self._sum: FloatArray | None = None
        self._square: FloatArray | None = None
        self._cross: FloatArray | None = None

    def add(self, inputs: FloatArray, targets: FloatArray) -> None:
        """Add rows of inputs ``(groups, rows, columns)`` with their targets ``(groups, rows, outputs)``."""
        self._inputs.add(inputs)
        self._rows += inputs.shape[1]
        self._sum = _plus(self._sum, _sums(targets))
        self._square = _plus(self._square, np.square(targets, dtype=np.float64).sum(1))
        self._cross = _plus(self._cross, np.matmul(targets.transpose(0, 2, 1), inputs))

    def result(self) -> CrossMoments:
        """Moments of everything added."""
        if self._sum is None or self._square is None or self._cross is None:
            raise ValueError("no rows were added")
        n = self._rows
        return CrossMoments(self._inputs.result(), self._sum / n, self._square / n, self._cross / n)


def _sums(values: FloatArray) -> FloatArray:
    """Sum over the rows, as a product: many times faster than adding up an axis in the middle."""
    total: FloatArray = np.matmul(np.ones((1, values.shape[1]), values.dtype), values)[:, 0]
    return total


def _plus(total: FloatArray | None, part: FloatArray) -> FloatArray:
    if total is None:
        return part.astype(np.float64)
    total += part
    return total
