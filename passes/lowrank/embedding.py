"""A table of embeddings as a narrow table and a product: ``Gather(E, i) = Gather(E_1, i) E_2``.

Lan et al. ALBERT. ICLR 2020 (factorised embedding parameterisation); here from a trained table.  To the algebra the table is a
layer over one-hot rows.  It saves bytes and costs time, so it is used only where a budget of parameters or bytes asks for it.
"""

from __future__ import annotations

import math

from shrinkc.evidence.sites import Site
from shrinkc.factors import BasisOf, Chain, LinearLayer, Sizes, Truncated, Work
from shrinkc.stages import Stage


class Embedding:
    """``Gather`` becomes ``Gather`` and ``MatMul``."""

    name = "embedding"
    saves_time = False

    def refusal(self, site: Site) -> str:
        """See :class:`shrinkc.factors.Form`."""
        return "" if site.node.op_type == "Gather" else "it is no table"

    def wants_inputs(self, site: Site) -> bool:
        """Never: what is read are indices."""
        return False

    def full_rank(self, site: Site) -> int:
        """See :class:`shrinkc.factors.Form`."""
        return min(site.inputs, site.outputs)

    def work(self, site: Site, sizes: Sizes, rank: int, inputs: int, outputs: int) -> Work:
        """See :class:`shrinkc.factors.Form`."""
        rows = sizes.samples * math.prod(sizes.made)
        return Work(rows * rank * outputs, rank * (inputs + outputs))

    def inner_widths(self, site: Site, rank: int) -> tuple[int, ...]:
        """See :class:`shrinkc.factors.Form`."""
        return (rank,)

    def factored(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> EmbeddingFactors:
        """See :class:`shrinkc.factors.Form`."""
        return EmbeddingFactors(layer, basis_of(layer))


class EmbeddingFactors(Truncated):
    """Table and product of every rank."""

    def chain(self, rank: int) -> Chain:
        """See :class:`shrinkc.factors.Factored`."""
        left, right = self.factors(rank)
        return Chain((Stage("Gather", right[0].T, attributes={"axis": 0}), Stage("MatMul", left[0].T)))
