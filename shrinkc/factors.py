"""What a rewrite and a way of finding factors implement, and the algebra that all of them share.

A layer ``y = M x + b`` is approximated by ``A_r B_r x + b_r`` with ``A_r = G^-1 U_r`` and ``B_r = U_r^T G M``: ``U`` is an
orthonormal basis of the outputs, best direction first, ``G`` a diagonal of gains the outputs get afterwards.  What is lost is
``D_r = M - A_r B_r``, and its error ``E|D_r (x - mean)|^2`` is known in closed form for every rank at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from shrinkc.api import FloatArray, Moments
from shrinkc.evidence.sites import Site
from shrinkc.stages import Stage


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """One layer as a linear map, group by group, and what data say of it.

    Attributes
    ----------
    name : str
        Of its output.
    weight : ndarray of shape (groups, outputs, columns), float64
    bias : ndarray of shape (groups, outputs), float64
        What it adds itself.
    gain : ndarray of shape (groups, outputs), float64
        What a BatchNormalization behind it multiplies the outputs by; ones where there is none.
    can_shift : bool
        Whether another bias can be added to its outputs.
    inputs, outputs : Moments or None
        Of what it reads and gives; without data neither is known, with data at least one.
    """

    name: str
    weight: FloatArray
    bias: FloatArray
    gain: FloatArray
    can_shift: bool
    inputs: Moments | None = None
    outputs: Moments | None = None

    def second(self, moments: Moments) -> FloatArray:
        """Second moment that counts: the centred one where a bias takes up the mean."""
        return moments.covariance() if self.can_shift else moments.gram

    def product_mean(self) -> FloatArray:
        """Mean of ``M x``, shape ``(groups, outputs)``; zero where no data said."""
        if self.outputs is not None:
            return self.outputs.mean - self.bias
        if self.inputs is not None:
            mean: FloatArray = np.einsum("goc,gc->go", self.weight, self.inputs.mean)
            return mean
        return np.zeros_like(self.bias)


@dataclass(frozen=True, eq=False)
class Basis:
    """Directions of the outputs, the one to keep first first.

    Attributes
    ----------
    vectors : ndarray of shape (groups, outputs, full rank), float64
        Orthonormal columns that span everything ``G M`` gives.
    gain : ndarray of shape (groups, outputs), float64
        The diagonal of ``G``; no zeros.
    """

    vectors: FloatArray
    gain: FloatArray


BasisOf = Callable[[LinearLayer], Basis]


@runtime_checkable
class Factorization(Protocol):
    """A way of finding factors.

    Attributes
    ----------
    name : str
    needs_data : bool
    """

    name: str
    needs_data: bool

    def basis(self, layer: LinearLayer) -> Basis:
        """Directions of the outputs of a layer."""


@dataclass(frozen=True)
class Sizes:
    """Where a layer runs: positions along every spatial axis, at the analysed shapes; rows (one axis) of a product.

    Attributes
    ----------
    samples : int
    read, made : tuple of int
        Of its input and its output.
    """

    samples: int
    read: tuple[int, ...]
    made: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """What a layer costs: multiply-accumulates and stored elements, biases aside."""

    macs: int
    parameters: int


@dataclass(frozen=True, eq=False)
class Chain:
    """What takes a layer's place.

    Attributes
    ----------
    stages : tuple of Stage
    shift : ndarray of shape (groups, outputs) or None
        To add to the intercept that another node keeps for the layer, as the chain has no bias of its own.
    """

    stages: tuple[Stage, ...]
    shift: FloatArray | None = None


class Factored(Protocol):
    """A layer decomposed once, for every rank.

    Attributes
    ----------
    errors : ndarray of shape (full rank + 1,), float64
        Error of the layer's outputs by rank, as a share of their variance (without data: of the squared weights).
    """

    errors: FloatArray

    def error(self, rank: int) -> float:
        """Error at one rank, exact where ``errors`` are drawn between few points."""

    def chain(self, rank: int) -> Chain:
        """Stages of a rank from 1 to the full one."""


@runtime_checkable
class Form(Protocol):
    """A rewrite: what a layer of a rank looks like in the graph.

    Attributes
    ----------
    name : str
    saves_time : bool
        Whether it is meant to; one that saves bytes alone is tried only where they are what the budget is of.
    """

    name: str
    saves_time: bool

    def refusal(self, site: Site) -> str:
        """Why it does not fit a layer; empty where it does."""

    def wants_inputs(self, site: Site) -> bool:
        """Whether data about the inputs of a layer are needed, and not about its outputs alone."""

    def full_rank(self, site: Site) -> int:
        """Largest rank that makes sense."""

    def work(self, site: Site, sizes: Sizes, rank: int, inputs: int, outputs: int) -> Work:
        """Cost at a rank, with so many input and output channels of all groups together."""

    def inner_widths(self, site: Site, rank: int) -> tuple[int, ...]:
        """Channels that every stage of the chain but the last gives, of all groups together."""

    def factored(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> Factored:
        """Decompose a layer."""


class Truncated:
    """A layer in a basis: factors and errors for every rank, from one decomposition.

    Parameters
    ----------
    layer : LinearLayer
    basis : Basis
    """

    def __init__(self, layer: LinearLayer, basis: Basis) -> None:
        self._layer, self._gain = layer, basis.gain
        self._left = basis.vectors / basis.gain[:, :, None]
        self._right = np.matmul((basis.vectors * basis.gain[:, :, None]).transpose(0, 2, 1), layer.weight)
        self._vectors = basis.vectors

    @cached_property
    def errors(self) -> FloatArray:
        """Share of the outputs' variance that is lost, by rank; shape (full rank + 1,).

        ``tr(D_r S D_r^T)`` is the sum over ``i, j > r`` of ``(A^T A)_ij (B S B^T)_ij``, so all ranks are sums over trailing
        blocks of one matrix.
        """
        products = np.matmul(self._left.transpose(0, 2, 1), self._left) * self._spread()
        blocks = products[:, ::-1, ::-1].cumsum(1).cumsum(2)
        tails = np.einsum("gii->i", blocks)[::-1]
        return np.append(np.maximum(tails, 0.0), 0.0) / (self._energy() or 1.0)

    def error(self, rank: int) -> float:
        """See :class:`Factored`."""
        return float(self.errors[rank])

    def _spread(self) -> FloatArray:
        """``B S B^T`` of every group."""
        layer = self._layer
        if layer.outputs is not None:
            turned = self._vectors * self._gain[:, :, None]
            return _between(turned.transpose(0, 2, 1), layer.second(layer.outputs))
        if layer.inputs is not None:
            return _between(self._right, layer.second(layer.inputs))
        plain: FloatArray = np.matmul(self._right, self._right.transpose(0, 2, 1))
        return plain

    def _energy(self) -> float:
        return energy(self._layer)

    def factors(self, rank: int) -> tuple[FloatArray, FloatArray]:
        """``A_r`` and ``B_r``, shapes (groups, outputs, rank) and (groups, rank, columns); of one size, row by column."""
        left, right = self._left[:, :, :rank], self._right[:, :rank]
        sizes = np.linalg.norm(right, axis=2) / np.maximum(np.linalg.norm(left, axis=1), 1e-30)
        scale = np.sqrt(np.where(sizes > 0, sizes, 1.0))
        return left * scale[:, None, :], right / scale[:, :, None]

    def bias(self, rank: int) -> FloatArray:
        """``b + D_r mean(x)``: the mean of the outputs stays what it was."""
        mean = self._layer.product_mean()
        if not self._layer.can_shift:
            return self._layer.bias
        turned = np.einsum("gok,go->gk", self._vectors[:, :, :rank] * self._gain[:, :, None], mean)
        moved: FloatArray = self._layer.bias + mean - np.einsum("gok,gk->go", self._left[:, :, :rank], turned)
        return moved


def _between(rows: FloatArray, second: FloatArray) -> FloatArray:
    """``R S R^T`` of every group."""
    product: FloatArray = np.matmul(np.matmul(rows, second), rows.transpose(0, 2, 1))
    return product


def energy(layer: LinearLayer) -> float:
    """What errors are shares of: the variance of the outputs, or the squared weights where no data said."""
    if layer.outputs is not None:
        return float(np.einsum("gii->", layer.second(layer.outputs)))
    if layer.inputs is not None:
        through = np.matmul(layer.weight, layer.second(layer.inputs))
        return float((through * layer.weight).sum())
    return float(np.square(layer.weight).sum())


def directions(matrices: FloatArray, roots: Sequence[FloatArray] | None = None) -> FloatArray:
    """Left singular vectors of ``M R`` of every group, strongest first, made complete to a basis of what ``M`` gives.

    Parameters
    ----------
    matrices : ndarray of shape (groups, outputs, columns)
    roots : sequence of ndarray of shape (columns, any), optional
        Weighting of the columns; none by default.

    Returns
    -------
    ndarray of shape (groups, outputs, min(outputs, columns)), float64
    """
    weighted = matrices if roots is None else [matrix @ root for matrix, root in zip(matrices, roots, strict=True)]
    return np.stack([_complete(matrix, own) for matrix, own in zip(matrices, weighted, strict=True)])


NEGLIGIBLE = 1e-10
"""Squared singular value, as a share of the largest, below which the vector of a tall matrix is mostly rounding."""


def _complete(matrix: FloatArray, weighted: FloatArray) -> FloatArray:
    wanted = min(matrix.shape)
    found = _left_vectors(weighted)[:, :wanted]
    if found.shape[1] < wanted:
        rest = matrix - found @ (found.T @ matrix)
        found = np.concatenate([found, _left_vectors(rest)[:, : wanted - found.shape[1]]], axis=1)
    if found.shape[1] < wanted:  # the matrix itself is of lower rank: any other directions do
        found = np.concatenate([found, np.eye(len(matrix))[:, :wanted]], axis=1)
        found = np.linalg.qr(found)[0][:, :wanted]
    if matrix.shape[0] > matrix.shape[1]:
        found = np.linalg.qr(found)[0]
    return found


def _left_vectors(matrix: FloatArray) -> FloatArray:
    """By the eigenvectors of the smaller of the two Gram matrices."""
    outputs, columns = matrix.shape
    if outputs <= columns:
        ascending: FloatArray = np.linalg.eigh(matrix @ matrix.T)[1]
        return ascending[:, ::-1]
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    values, vectors = values[::-1], vectors[:, ::-1]
    alive = values > NEGLIGIBLE * max(values[0], 0.0)
    left: FloatArray = matrix @ vectors[:, alive] / np.sqrt(values[alive])
    return left


def root_of(second: FloatArray) -> FloatArray:
    """``R`` with ``R R^T`` equal to a second moment, shape (columns, columns); directions without variance are zero."""
    values, vectors = np.linalg.eigh(second)
    root: FloatArray = vectors * np.sqrt(np.maximum(values, 0.0))
    return root
