"""Channel labels: integers that flow through the graph, and which of them must live or die together.

A value's labels are an integer array broadcastable to the value's shape: along each axis it has either the value's size
or 1, and 1 means "the same for every position".  Ties between labels are edges; connected labels form one *class*, the
smallest thing that can be removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Shape = tuple[int, ...]


class LabelSpace:
    """Hands out labels and remembers which are tied."""

    def __init__(self) -> None:
        self._count = 0
        self._edges: list[tuple[Labels, Labels]] = []
        self._known: tuple[tuple[int, int], Labels] | None = None

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int) -> Labels:
        """``count`` new labels, shape ``(count,)``."""
        first = self._count
        self._count += count
        return np.arange(first, self._count, dtype=np.int64)

    def tie(self, a: Labels, b: Labels) -> None:
        """Tie two label arrays position by position; they broadcast against each other."""
        if a is b:
            return
        a, b = np.broadcast_arrays(a, b)
        differ = a != b
        if differ.any():
            self._edges.append((a[differ].ravel(), b[differ].ravel()))

    def classes(self) -> Labels:
        """Class of every label, shape ``(len(self),)``; classes are numbered from 0 in order of first label."""
        state = (self._count, len(self._edges))
        if self._known is None or self._known[0] != state:
            self._known = state, self._classes()
        return self._known[1]

    def _classes(self) -> Labels:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not self._edges:
            return np.arange(self._count, dtype=np.int64)
        rows = np.concatenate([a for a, _ in self._edges])
        columns = np.concatenate([b for _, b in self._edges])
        graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(self._count, self._count))
        _, component = connected_components(graph, directed=False)
        _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[inverse]


def uniform(label: int, rank: int) -> Labels:
    """Array of rank ``rank`` that carries one label at every position."""
    return np.full((1,) * rank, label, np.int64)


def along(vector: Labels, axis: int, rank: int) -> Labels:
    """Array of rank ``rank`` whose labels vary along ``axis`` only."""
    shape = [1] * rank
    shape[axis] = len(vector)
    return vector.reshape(shape)


def labelled_axes(labels: NDArray[Any]) -> tuple[int, ...]:
    """Axes along which the labels vary."""
    return tuple(axis for axis, size in enumerate(labels.shape) if size > 1)


def compress(labels: Labels) -> Labels:
    """Replace every axis along which nothing changes by size 1."""
    for axis in labelled_axes(labels):
        first = labels.take([0], axis)
        if (labels == first).all():
            labels = first
    return labels


def column_axis(labels: Labels) -> int | None:
    """Axis along which labels count up by one, as they do where an axis was split into rows; None if there is none."""
    for axis in reversed(labelled_axes(labels)):
        if (np.diff(labels, axis=axis) == 1).all():
            return axis
    return None


def main_axis(labels: Labels, among: Sequence[int] | None = None) -> int:
    """Axis along which channels are best left free: inside rows if there are rows, else the widest."""
    axes = labelled_axes(labels) if among is None else among
    column = column_axis(labels)
    return column if column is not None and column in axes else max(axes, key=lambda axis: labels.shape[axis])
