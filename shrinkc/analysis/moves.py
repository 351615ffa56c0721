"""Data movement executed on compressed label arrays, with the operators' real semantics.

Every function takes and returns arrays in the compressed form of :mod:`shrinkc.analysis.labels`; true shapes are passed
beside them where they matter.  The same functions carry labels of activations and source coordinates of constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from shrinkc.analysis.labels import Labels, Shape, compress, labelled_axes


def reshape(labels: Labels, old: Shape, new: Shape) -> Labels:
    """Labels after a reshape from ``old`` to ``new`` (also flatten, squeeze, unsqueeze).

    The two shapes are cut into the smallest blocks of equal size; only blocks that carry labels are expanded.
    """
    expanded: list[int] = []
    result: list[int] = []
    for before, after in _blocks(old, new):
        if any(labels.shape[axis] > 1 for axis in before):
            expanded += [old[axis] for axis in before]
            result += [new[axis] for axis in after]
        else:
            expanded += [1] * len(before)
            result += [1] * len(after)
    return compress(np.broadcast_to(labels, expanded).reshape(result))


def _blocks(old: Shape, new: Shape) -> Iterator[tuple[list[int], list[int]]]:
    i = j = 0
    while i < len(old) or j < len(new):
        before: list[int] = []
        after: list[int] = []
        size_before = size_after = 1
        while True:
            if i < len(old) and (size_before < size_after or not before):
                before.append(i)
                size_before *= old[i]
                i += 1
            elif j < len(new) and (size_after < size_before or not after):
                after.append(j)
                size_after *= new[j]
                j += 1
            else:
                break
        yield before, after


def transpose(labels: Labels, permutation: Sequence[int]) -> Labels:
    """Labels with permuted axes."""
    return labels.transpose(permutation)


def take(labels: Labels, indices: Labels, axis: int) -> Labels:
    """Labels after Gather along ``axis`` with constant ``indices`` of any rank."""
    if labels.shape[axis] == 1:
        return labels.take(np.zeros((1,) * indices.ndim, np.int64), axis)
    return compress(labels.take(indices, axis))


def slice_axis(labels: Labels, axis: int, start: int | None, stop: int | None, step: int) -> Labels:
    """Labels of positions ``start:stop:step`` along one axis."""
    if labels.shape[axis] == 1:
        return labels
    index: list[slice] = [slice(None)] * labels.ndim
    index[axis] = slice(start, stop, step)
    return labels[tuple(index)]


def concat(parts: Sequence[Labels], shapes: Sequence[Shape], axis: int) -> Labels:
    """Labels of values laid end to end along ``axis``."""
    sizes = [max(part.shape[other] for part in parts) for other in range(parts[0].ndim)]
    full = []
    for part, shape in zip(parts, shapes, strict=True):
        sizes[axis] = shape[axis]
        full.append(np.broadcast_to(part, sizes))
    return compress(np.concatenate(full, axis))


def expand(labels: Labels, rank: int) -> Labels:
    """Labels after broadcasting to ``rank`` axes; repeated positions stay uniform."""
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)


def tile(labels: Labels, repeats: Sequence[int]) -> Labels:
    """Labels after Tile; an axis without labels stays compressed."""
    return np.tile(labels, [count if labels.shape[axis] > 1 else 1 for axis, count in enumerate(repeats)])


def pad_axis(labels: Labels, size: int, axis: int, front: Labels, back: Labels) -> Labels:
    """Labels with new positions ``front`` and ``back`` (vectors) at the ends of an axis of true size ``size``."""
    body = np.broadcast_to(labels, [size if other == axis else n for other, n in enumerate(labels.shape)])
    ends = []
    for vector in (front, back):
        shape = [len(vector) if other == axis else 1 for other in range(labels.ndim)]
        full = [len(vector) if other == axis else n for other, n in enumerate(body.shape)]
        ends.append(np.broadcast_to(vector.reshape(shape), full))
    return np.concatenate([ends[0], body, ends[1]], axis)


def is_rectangle(kept: np.ndarray) -> bool:
    """Whether a boolean array is the outer product of per-axis choices."""
    return bool((kept == rectangle_of(kept)).all())


def rectangle_of(kept: np.ndarray) -> np.ndarray:
    """Smallest outer product of per-axis choices that contains ``kept``."""
    result = np.ones((1,) * kept.ndim, bool)
    for axis in range(kept.ndim):
        others = tuple(other for other in range(kept.ndim) if other != axis)
        result = result & kept.any(axis=others, keepdims=True)
    return result


def kept_shape(shape: Shape, kept: np.ndarray, column: int | None = None) -> Shape:
    """Shape of a value once the positions with ``kept`` false (compressed like labels) are gone.

    Parameters
    ----------
    shape : tuple of int
    kept : ndarray of bool
        A rectangle, or rows that keep the same number each; callers make sure of it.
    column : int, optional
        Axis along which the rows run.

    Examples
    --------
    >>> kept_shape((2, 3), np.asarray([[True, False, False], [False, False, True]]), 1)
    (2, 1)
    """
    sizes = list(shape)
    for axis in labelled_axes(kept):
        if axis == column:
            sizes[axis] = int(kept.sum(axis=axis).max())
        else:
            sizes[axis] = int(kept.any(axis=tuple(a for a in range(kept.ndim) if a != axis)).sum())
    return tuple(sizes)
