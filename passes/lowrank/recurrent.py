"""The input matrices of a recurrent layer as a product before it and smaller matrices inside it: ``W x = A (B x)``.

Prabhavalkar, Alsharif, Bruguier, McGraw. On the compression of recurrent neural networks with an application to LVCSR
acoustic modeling. ICASSP 2016.  Directions and gates share the product.  Differs: recurrent matrices stay, as the fused
operators of ONNX take them whole; gates are looked at before their biases, of which those of the inputs take up the mean that
is lost, where there are any.
"""

from __future__ import annotations

import math

from shrinkc.evidence.sites import Site
from shrinkc.factors import BasisOf, Chain, LinearLayer, Sizes, Truncated, Work
from shrinkc.stages import RECURRENT, Stage, recurrent_stage


class Recurrent:
    """``LSTM``, ``GRU`` and ``RNN`` become a ``MatMul`` and one that reads less."""

    name = "recurrent"
    saves_time = True

    def refusal(self, site: Site) -> str:
        """See :class:`shrinkc.factors.Form`."""
        return "" if site.node.op_type in RECURRENT else "it is not recurrent"

    def wants_inputs(self, site: Site) -> bool:
        """Always: what the matrices give is no value of the graph."""
        return True

    def full_rank(self, site: Site) -> int:
        """See :class:`shrinkc.factors.Form`."""
        return min(site.inputs, site.outputs)

    def work(self, site: Site, sizes: Sizes, rank: int, inputs: int, outputs: int) -> Work:
        """See :class:`shrinkc.factors.Form`."""
        elements = rank * (inputs + outputs)
        return Work(sizes.samples * math.prod(sizes.made) * elements, elements)

    def inner_widths(self, site: Site, rank: int) -> tuple[int, ...]:
        """See :class:`shrinkc.factors.Form`."""
        return (rank,)

    def factored(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> RecurrentFactors:
        """See :class:`shrinkc.factors.Form`."""
        return RecurrentFactors(site, layer, basis_of)


class RecurrentFactors(Truncated):
    """Product and recurrent layer of every rank."""

    def __init__(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> None:
        super().__init__(layer, basis_of(layer))
        self._site = site

    def chain(self, rank: int) -> Chain:
        """See :class:`shrinkc.factors.Factored`."""
        left, right = self.factors(rank)
        change = self.bias(rank) - self._layer.bias
        stages = (Stage("MatMul", right[0].T), recurrent_stage(self._site, left[0]))
        return Chain(stages, change if change.any() else None)
