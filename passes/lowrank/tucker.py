"""A convolution between two of single positions: ``1 x 1`` to fewer channels, ``k x k``, ``1 x 1`` back.

Kim, Park, Yoo, Choi, Yang, Shin. Compression of deep convolutional neural networks for fast and low power mobile applications.
ICLR 2016 (Tucker-2).  Differs: the directions of the input channels are those of the layer's contributions on data, those of
the outputs come from the way of finding factors that the recipe names, for what the narrowed layer gives after its best refit;
one rank counts for both, the input's in proportion to its channels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import numpy as np

from shrinkc.api import FloatArray, Moments
from shrinkc.evidence.sites import Site
from shrinkc.factors import BasisOf, Chain, LinearLayer, Sizes, Work, energy, root_of
from shrinkc.stages import Stage

SLIDING = ("strides", "pads", "dilations", "auto_pad")

RIDGE = 1e-9
"""Added to second moments before they are solved with, in units of the mean variance."""

POINTS = 12
"""Ranks whose error is worked out; between them it is taken to run straight."""


class Tucker:
    """``Conv`` becomes three of rank ``r`` outputs and a proportional number of inputs."""

    name = "tucker"
    saves_time = True

    def refusal(self, site: Site) -> str:
        """See :class:`shrinkc.factors.Form`."""
        if site.windows is None:
            return "it is no convolution"
        if site.taps == 1:
            return "its kernel has one position only"
        return "it has groups" if site.groups > 1 else ""

    def wants_inputs(self, site: Site) -> bool:
        """Always: input channels are narrowed too."""
        return True

    def full_rank(self, site: Site) -> int:
        """See :class:`shrinkc.factors.Form`."""
        return min(site.outputs, site.inputs * site.taps)

    def work(self, site: Site, sizes: Sizes, rank: int, inputs: int, outputs: int) -> Work:
        """See :class:`shrinkc.factors.Form`."""
        narrow = input_rank(site, rank)
        first, rest = inputs * narrow, narrow * rank * site.taps + rank * outputs
        return Work(sizes.samples * (math.prod(sizes.read) * first + math.prod(sizes.made) * rest), first + rest)

    def inner_widths(self, site: Site, rank: int) -> tuple[int, ...]:
        """See :class:`shrinkc.factors.Form`."""
        return (input_rank(site, rank), rank)

    def factored(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> TuckerFactors:
        """See :class:`shrinkc.factors.Form`."""
        return TuckerFactors(site, layer, basis_of)


def input_rank(site: Site, rank: int) -> int:
    """Input channels that go with so many output ones: the same share, rounded up to what a rank of that size keeps."""
    share = rank / min(site.outputs, site.inputs * site.taps)
    return min(site.inputs, max(1, math.ceil(share * site.inputs - 1e-9)))


class TuckerFactors:
    """The three convolutions of every rank.

    Parameters
    ----------
    site : Site
    layer : LinearLayer
    basis_of : callable of LinearLayer to Basis
    """

    def __init__(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> None:
        self._site, self._layer, self._basis_of = site, layer, basis_of
        size = site.inputs * site.taps
        self._second: FloatArray = np.eye(size) if layer.inputs is None else layer.second(layer.inputs)[0]
        self._known: dict[int, tuple[FloatArray, FloatArray]] = {}

    @cached_property
    def _channels(self) -> FloatArray:
        """Directions of the input channels, those that contribute most to the outputs first; ``(C, C)``."""
        channels, taps = self._site.inputs, self._site.taps
        weight = self._layer.weight[0].reshape(-1, channels, taps)
        seen = self._second.reshape(channels, taps, channels, taps)
        root = root_of(np.einsum("citi->ct", seen) / taps)
        unfolded = np.einsum("oci,ct->toi", weight, root).reshape(channels, -1)
        # Directions z of x = root z that matter: their images root z span what is kept of the channels.
        vectors = np.linalg.eigh(unfolded @ unfolded.T)[1][:, ::-1]
        kept: FloatArray = np.linalg.qr(np.concatenate([root @ vectors, np.eye(channels)], axis=1))[0][:, :channels]
        return kept

    def _solved(self, rank: int) -> tuple[FloatArray, FloatArray]:
        """Output directions ``(O, r)`` and the layer they have after its inputs were narrowed, ``(O, narrow taps)``."""
        if rank not in self._known:
            narrow = input_rank(self._site, rank)
            maps = np.kron(self._channels[:, :narrow].T, np.eye(self._site.taps))
            weighted = maps @ self._second
            inner = weighted @ maps.T
            inner[np.diag_indices(len(inner))] += RIDGE * float(np.trace(inner)) / len(inner)
            refitted = np.linalg.solve(inner, weighted @ self._layer.weight[0].T).T
            self._known[rank] = self._directions(refitted, maps, rank), refitted
        return self._known[rank]

    def _directions(self, refitted: FloatArray, maps: FloatArray, rank: int) -> FloatArray:
        """The best directions of what the narrowed layer gives."""
        weight = refitted @ maps
        given = Moments(1, np.zeros((1, len(weight))), (weight @ self._second @ weight.T)[None])
        has_data = self._layer.inputs is not None
        basis = self._basis_of(replace(self._layer, weight=weight[None], outputs=given if has_data else None))
        found = basis.vectors[0][:, :rank] / basis.gain[0][:, None]
        orthonormal: FloatArray = np.linalg.qr(found)[0]
        return orthonormal

    def _effective(self, rank: int) -> FloatArray:
        """The weight that the three amount to, ``(O, C taps)``."""
        left, refitted = self._solved(rank)
        maps = np.kron(self._channels[:, : input_rank(self._site, rank)].T, np.eye(self._site.taps))
        weight: FloatArray = left @ (left.T @ refitted) @ maps
        return weight

    def error(self, rank: int) -> float:
        """Error at one rank."""
        lost = self._layer.weight[0] - self._effective(rank)
        return max(0.0, float(((lost @ self._second) * lost).sum())) / (energy(self._layer) or 1.0)

    @cached_property
    def errors(self) -> FloatArray:
        """See :class:`shrinkc.factors.Factored`; exact at some ranks, see :meth:`error` for any."""
        full = min(self._layer.weight.shape[1:])
        points = np.unique(np.linspace(1, full, min(full, POINTS)).round().astype(int))
        errors: FloatArray = np.interp(np.arange(full + 1), [0, *points], [1.0, *(self.error(int(rank)) for rank in points)])
        return errors

    def chain(self, rank: int) -> Chain:
        """See :class:`shrinkc.factors.Factored`."""
        site, narrow = self._site, input_rank(self._site, rank)
        kernel = () if site.windows is None else site.windows.kernel
        ones = (1,) * len(kernel)
        left, refitted = self._solved(rank)
        bias = self._layer.bias[0]
        if self._layer.inputs is not None:
            bias = bias + (self._layer.weight[0] - self._effective(rank)) @ self._layer.inputs.mean[0]
        first = Stage(
            "Conv", self._channels[:, :narrow].T.reshape(narrow, site.inputs, *ones), attributes={"kernel_shape": ones}
        )
        core = (left.T @ refitted).reshape(rank, narrow, *kernel)
        middle = Stage("Conv", core, attributes={**site.attributes(SLIDING), "kernel_shape": kernel})
        last = Stage("Conv", left.reshape(site.outputs, rank, *ones), bias, {"kernel_shape": ones})
        return Chain((first, middle, last))
