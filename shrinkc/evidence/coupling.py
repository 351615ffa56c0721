"""Maps between the dims that are left of queries and keys, so that their products are what they were.

With ``q`` and ``k`` of the original and ``q'`` and ``k'`` of the cut network, means over all positions, the map ``A`` that
makes ``q'^T A k'`` the nearest to ``q^T k`` over all pairs is ``E[q'q'^T]^-1 E[q'q^T] E[kk'^T] E[k'k'^T]^-1`` (METHODS 20.3).
That is: tell all dims from those that are left, by least squares, on either side, and take the product of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shrinkc.analysis.groups import BoolArray
from shrinkc.api import FloatArray, RepairedLayer
from shrinkc.evidence.products import Product
from shrinkc.evidence.regression import ridge_of, solve_towards
from shrinkc.evidence.walking import Walk


@dataclass(frozen=True, eq=False)
class _Pair:
    """One matrix of a product, original and cut: its head, and both operands, shape (positions, dims)."""

    head: int
    left: FloatArray
    right: FloatArray
    cut_left: FloatArray
    cut_right: FloatArray


class _Regression:
    """All dims of one side from those that are left."""

    def __init__(self) -> None:
        self._rows = 0
        self._gram: FloatArray | float = 0.0
        self._cross: FloatArray | float = 0.0

    def add(self, cut: FloatArray, dense: FloatArray) -> None:
        self._rows += len(cut)
        self._gram = self._gram + cut.T @ cut
        self._cross = self._cross + dense.T @ cut

    def solved(self, kept: BoolArray) -> FloatArray:
        """Shape (dims, dims left); the ridge is towards telling dims that are left from themselves alone."""
        gram, cross = np.asarray(self._gram) / self._rows, np.asarray(self._cross) / self._rows
        return solve_towards(np.eye(len(kept))[:, kept], cross, gram, ridge_of(gram, self._rows))


def couple(product: Product, dense: Walk, cut: Walk) -> tuple[list[str], RepairedLayer]:
    """Fold maps into the layer of one operand, and bring the operand up to date.

    Heads whose products within a sample would get worse stay as they are; the closed form looks at pairs across samples too.

    Parameters
    ----------
    product : Product
    dense, cut : Walk
        Through the original and the cut network; the operands must be at hand.

    Returns
    -------
    list of str
        Names of the tensors that changed.
    RepairedLayer
        Error of the product, as a share of its variance.
    """
    maps = _maps(product, dense, cut)
    errors, variance = _errors(product, dense, cut, maps)
    before, after = errors
    report = RepairedLayer(product.name, float(before.sum()) / variance, float(np.minimum(before, after).sum()) / variance)
    if not (after < before).any():
        return [], report
    maps = [own if is_better else np.eye(len(own)) for own, is_better in zip(maps, after < before, strict=True)]
    _bring_up_to_date(product, cut, maps)
    return product.fold([own.T for own in maps] if product.is_left else maps), report


def _maps(product: Product, dense: Walk, cut: Walk) -> list[FloatArray]:
    """The map ``A`` of every head."""
    sides = [(_Regression(), _Regression()) for _ in product.rows]
    for pair in _pairs(product, dense, cut):
        left, right = sides[pair.head]
        left.add(pair.cut_left, pair.left)
        right.add(pair.cut_right, pair.right)
    dims = {int(head): kept for head, kept in zip(product.head, product.kept[product.kept.any(1)], strict=True)}
    return [left.solved(dims[head]).T @ right.solved(dims[head]) for head, (left, right) in enumerate(sides)]


def _errors(product: Product, dense: Walk, cut: Walk, maps: Sequence[FloatArray]) -> tuple[FloatArray, float]:
    """Squared errors of shape (without and with the maps, heads), and the squared deviation from the mean of all products."""
    errors, count, total, energy = np.zeros((2, len(maps))), 0, 0.0, 0.0
    for pair in _pairs(product, dense, cut):
        wanted = pair.left @ pair.right.T
        for row, own in enumerate((pair.cut_left, pair.cut_left @ maps[pair.head])):
            errors[row, pair.head] += np.square(own @ pair.cut_right.T - wanted).sum()
        count, total, energy = count + wanted.size, total + wanted.sum(), energy + np.square(wanted).sum()
    return errors, float(energy - total**2 / count) or 1.0


def _pairs(product: Product, dense: Walk, cut: Walk) -> Iterator[_Pair]:
    """Every matrix that is left of the product, of all samples."""
    stays = np.flatnonzero(product.kept.any(1))
    for number in range(cut.n_batches):
        left, right = _operands(product, dense, number)
        cut_left, cut_right = _operands(product, cut, number)
        repeats = len(cut_left) // len(product.head)  # a larger batch than the analysis had: the batch is the outermost axis
        for place in range(len(cut_left)):
            sample, own = divmod(place, len(product.head))
            there = sample * (len(left) // repeats) + stays[own]
            yield _Pair(int(product.head[own]), left[there], right[there], cut_left[place], cut_right[place])


def _operands(product: Product, walk: Walk, number: int) -> tuple[FloatArray, FloatArray]:
    """Both operands of one batch, shape (matrices, positions, dims), float64."""
    left, right = walk.value(product.left, number), walk.value(product.right, number).swapaxes(-1, -2)
    lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    whole = [np.broadcast_to(own, (*lead, *own.shape[-2:])).reshape(-1, *own.shape[-2:]) for own in (left, right)]
    return whole[0].astype(np.float64), whole[1].astype(np.float64)


def _bring_up_to_date(product: Product, cut: Walk, maps: Sequence[FloatArray]) -> None:
    """What follows reads the operand as its layer will give it."""
    stacked = np.stack(maps)
    for number in range(cut.n_batches):
        value = cut.value(product.operand, number)
        matrices = value.reshape(-1, *value.shape[-2:])
        own = stacked[np.resize(product.operand_head, len(matrices))]
        changed = matrices @ own if product.is_left else own @ matrices
        cut.replace(product.operand, number, changed.reshape(value.shape).astype(value.dtype))
