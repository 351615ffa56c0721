"""A convolution as one of few outputs with the whole kernel, and one of single positions behind it.

Jaderberg, Vedaldi, Zisserman. Speeding up convolutional neural networks with low rank expansions. BMVC 2014 (scheme over
output channels); Zhang et al. 2016.  Strides, dilations and paddings stay with the first, the bias with the second, whose
outputs are the original's: a BatchNormalization behind it folds as before.  Groups are factorised each by itself.
"""

from __future__ import annotations

import numpy as np

from shrinkc.evidence.sites import Site
from shrinkc.factors import BasisOf, Chain, LinearLayer, Sizes, Truncated, Work
from shrinkc.stages import Stage

SLIDING = ("strides", "pads", "dilations", "auto_pad")


class Pointwise:
    """``Conv`` becomes ``Conv(k x k, rank)`` and ``Conv(1 x 1)``."""

    name = "pointwise"
    saves_time = True

    def refusal(self, site: Site) -> str:
        """See :class:`shrinkc.factors.Form`."""
        if site.windows is None:
            return "it is no convolution"
        return "every group reads one channel" if site.is_depthwise else ""

    def wants_inputs(self, site: Site) -> bool:
        """The outputs tell everything, unless there are more of them than columns."""
        return site.outputs > site.inputs * site.taps

    def full_rank(self, site: Site) -> int:
        """See :class:`shrinkc.factors.Form`."""
        return min(site.outputs, site.inputs * site.taps) // site.groups

    def work(self, site: Site, sizes: Sizes, rank: int, inputs: int, outputs: int) -> Work:
        """See :class:`shrinkc.factors.Form`."""
        elements = rank * (inputs * site.taps + outputs)
        return Work(sizes.samples * int(np.prod(sizes.made)) * elements, elements)

    def inner_widths(self, site: Site, rank: int) -> tuple[int, ...]:
        """See :class:`shrinkc.factors.Form`."""
        return (site.groups * rank,)

    def factored(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> PointwiseFactors:
        """See :class:`shrinkc.factors.Form`."""
        return PointwiseFactors(site, layer, basis_of)


class PointwiseFactors(Truncated):
    """The two convolutions of every rank."""

    def __init__(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> None:
        super().__init__(layer, basis_of(layer))
        self._site = site

    def chain(self, rank: int) -> Chain:
        """See :class:`shrinkc.factors.Factored`."""
        site = self._site
        left, right = self.factors(rank)
        kernel = () if site.windows is None else site.windows.kernel
        group = {"group": site.groups} if site.groups > 1 else {}
        first = Stage(
            "Conv",
            right.reshape(site.groups * rank, site.inputs // site.groups, *kernel),
            attributes={**site.attributes(SLIDING), "kernel_shape": kernel, **group},
        )
        ones = (1,) * len(kernel)
        second = Stage(
            "Conv",
            left.reshape(site.outputs, rank, *ones),
            self.bias(rank).reshape(-1),
            {"kernel_shape": ones, **group},
        )
        return Chain((first, second))
