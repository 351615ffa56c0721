"""A matrix product as two: ``x W = (x B^T) A^T``.

Sainath et al. Low-rank matrix factorization for deep neural network training with high-dimensional output targets. ICASSP
2013.  A Gemm keeps its bias at the second product; behind a MatMul the bias is another node's, which takes up the change.
"""

from __future__ import annotations

import numpy as np

from shrinkc.evidence.sites import Site
from shrinkc.factors import BasisOf, Chain, LinearLayer, Sizes, Truncated, Work
from shrinkc.stages import Stage


class Matrix:
    """``Gemm`` and ``MatMul`` become two of the same kind."""

    name = "matrix"
    saves_time = True

    def refusal(self, site: Site) -> str:
        """See :class:`shrinkc.factors.Form`."""
        return "" if site.node.op_type in ("Gemm", "MatMul") else "it is no matrix product"

    def wants_inputs(self, site: Site) -> bool:
        """The outputs tell everything, unless there are more of them than inputs."""
        return site.outputs > site.inputs

    def full_rank(self, site: Site) -> int:
        """See :class:`shrinkc.factors.Form`."""
        return min(site.outputs, site.inputs)

    def work(self, site: Site, sizes: Sizes, rank: int, inputs: int, outputs: int) -> Work:
        """See :class:`shrinkc.factors.Form`."""
        elements = rank * (inputs + outputs)
        return Work(sizes.samples * int(np.prod(sizes.made)) * elements, elements)

    def inner_widths(self, site: Site, rank: int) -> tuple[int, ...]:
        """See :class:`shrinkc.factors.Form`."""
        return (rank,)

    def factored(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> MatrixFactors:
        """See :class:`shrinkc.factors.Form`."""
        return MatrixFactors(site, layer, basis_of)


class MatrixFactors(Truncated):
    """The two products of every rank."""

    def __init__(self, site: Site, layer: LinearLayer, basis_of: BasisOf) -> None:
        super().__init__(layer, basis_of(layer))
        self._site = site

    def chain(self, rank: int) -> Chain:
        """See :class:`shrinkc.factors.Factored`."""
        left, right = self.factors(rank)
        factors = (right[0], left[0])
        if self._site.node.op_type == "MatMul":
            change = self.bias(rank) - self._layer.bias
            return Chain(tuple(Stage("MatMul", factor.T) for factor in factors), change if change.any() else None)
        if self._site.is_transposed:
            first, second = (Stage("Gemm", factor.T) for factor in factors)
        else:
            first, second = (Stage("Gemm", factor, attributes={"transB": 1}) for factor in factors)
        return Chain((first, Stage("Gemm", second.weight, self.bias(rank).reshape(-1), second.attributes)))
