"""A convolution as a vertical and a horizontal one.

Jaderberg, Vedaldi, Zisserman. Speeding up convolutional neural networks with low rank expansions. BMVC 2014 (scheme 2); Tai et
al. Convolutional neural networks with low-rank regularization. ICLR 2016, eq. 5: the singular vectors of the weight as a
``(C kh) x (O kw)`` matrix.  Differs: the second factor is refitted to the outputs, in closed form for all ranks by one Cholesky
factorisation, as the rows of the first ones are nested.  The way of finding factors that a recipe names does not apply.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from scipy import linalg

from shrinkc.api import FloatArray
from shrinkc.evidence.sites import Site
from shrinkc.factors import BasisOf, Chain, LinearLayer, Sizes, Work, energy
from shrinkc.stages import Stage

RIDGE = 1e-9
"""Added to the second moment of what the first factors give, in units of its mean variance."""


class Spatial:
    """``Conv(kh x kw)`` becomes ``Conv(kh x 1, rank)`` and ``Conv(1 x kw)``."""

    name = "spatial"
    saves_time = True

    def refusal(self, site: Site) -> str:
        """See :class:`shrinkc.factors.Form`."""
        if site.windows is None:
            return "it is no convolution"
        if len(site.windows.kernel) != 2 or min(site.windows.kernel) < 2:
            return "its kernel has no two axes to split"
        return "it has groups" if site.groups > 1 else ""

    def wants_inputs(self, site: Site) -> bool:
        """Always: the split runs through the columns."""
        return True

    def full_rank(self, site: Site) -> int:
        """See :class:`shrinkc.factors.Form`."""
        height, width = _kernel(site)
        return min(site.inputs * height, site.outputs * width)

    def work(self, site: Site, sizes: Sizes, rank: int, inputs: int, outputs: int) -> Work:
        """See :class:`shrinkc.factors.Form`."""
        height, width = _kernel(site)
        first, second = rank * inputs * height, rank * outputs * width
        between = sizes.made[0] * sizes.read[1]
        return Work(sizes.samples * (between * first + math.prod(sizes.made) * second), first + second)

    def inner_widths(self, site: Site, rank: int) -> tuple[int, ...]:
        """See :class:`shrinkc.factors.Form`."""
        return (rank,)

    def factored(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> SpatialFactors:
        """See :class:`shrinkc.factors.Form`."""
        return SpatialFactors(site, layer)


class SpatialFactors:
    """The two convolutions of every rank.

    Parameters
    ----------
    site : Site
    layer : LinearLayer
    """

    def __init__(self, site: Site, layer: LinearLayer) -> None:
        self._site, self._layer = site, layer
        height, width = _kernel(site)
        self._tensor = layer.weight.reshape(site.outputs, site.inputs, height, width)
        unfolded = self._tensor.transpose(1, 2, 0, 3).reshape(site.inputs * height, -1)
        vectors, values, _ = np.linalg.svd(unfolded, full_matrices=False)
        self._first: FloatArray = (vectors * np.sqrt(values)).T.reshape(-1, site.inputs, height)
        self._second_moment = None if layer.inputs is None else layer.second(layer.inputs)[0]

    @cached_property
    def _solved(self) -> tuple[FloatArray, FloatArray]:
        """Cholesky factor ``L`` of the moment of what the first convolutions give, and ``L^-1`` times its product with y."""
        maps = self._maps(len(self._first))
        weighted = maps if self._second_moment is None else maps @ self._second_moment
        inner = weighted @ maps.T
        inner[np.diag_indices(len(inner))] += RIDGE * float(np.trace(inner)) / len(inner)
        factor = linalg.cholesky(inner, lower=True)
        return factor, linalg.solve_triangular(factor, weighted @ self._layer.weight[0].T, lower=True)

    def _maps(self, rank: int) -> FloatArray:
        """The first convolutions at every tap of the second, as rows over the layer's columns: ``(rank kw, C kh kw)``."""
        _, width = _kernel(self._site)
        spread = np.einsum("rci,jk->rjcik", self._first[:rank], np.eye(width))
        rows: FloatArray = spread.reshape(rank * width, -1)
        return rows

    @cached_property
    def errors(self) -> FloatArray:
        """See :class:`shrinkc.factors.Factored`."""
        _, width = _kernel(self._site)
        explained = np.square(self._solved[1]).sum(1).reshape(-1, width).sum(1).cumsum()
        total = energy(self._layer)
        errors: FloatArray = np.maximum(total - np.append(0.0, explained), 0.0) / (total or 1.0)
        return errors

    def error(self, rank: int) -> float:
        """See :class:`shrinkc.factors.Factored`."""
        return float(self.errors[rank])

    def _last(self, rank: int) -> FloatArray:
        """Weight of the second convolution that gives the outputs best, ``(O, rank kw)``."""
        size = rank * _kernel(self._site)[1]
        factor, projected = self._solved
        weight: FloatArray = linalg.solve_triangular(factor[:size, :size], projected[:size], lower=True, trans="T").T
        return weight

    def chain(self, rank: int) -> Chain:
        """See :class:`shrinkc.factors.Factored`."""
        site, (height, width) = self._site, _kernel(self._site)
        last = self._last(rank)
        bias = self._layer.bias
        if self._layer.inputs is not None:
            lost = self._layer.weight[0] - last @ self._maps(rank)
            bias = bias + lost @ self._layer.inputs.mean[0]
        slides = site.windows
        if slides is None:
            raise ValueError("a convolution lost its windows")
        (top, bottom), (left, right) = slides.pads
        down = {
            "kernel_shape": (height, 1),
            "strides": (slides.strides[0], 1),
            "dilations": (slides.dilations[0], 1),
            "pads": (top, 0, bottom, 0),
        }
        along = {
            "kernel_shape": (1, width),
            "strides": (1, slides.strides[1]),
            "dilations": (1, slides.dilations[1]),
            "pads": (0, left, 0, right),
        }
        first = Stage("Conv", self._first[:rank, :, :, None], attributes=down)
        return Chain((first, Stage("Conv", last.reshape(site.outputs, rank, 1, width), bias.reshape(-1), along)))


def _kernel(site: Site) -> tuple[int, int]:
    height, width = (1, 1) if site.windows is None else site.windows.kernel
    return height, width
