"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product; a matrix after a stack of matrices is one product of the flattened stack."""
    return torch.matmul(a, b)


op.plain(MatMul=product)


@op("Gemm")
def gemm(call: Call) -> Function:
    """The sum of alpha A B and beta C, either transposed first."""
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    flip_a, flip_b = call.integer("transA"), call.integer("transB")
    if alpha == beta == 1 and not flip_a and flip_b:
        return _linear

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.t() if flip_a else a, b.t() if flip_b else b
        if c is None:
            return _times(torch.matmul(a, b), alpha)
        if c.is_floating_point():
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)
        return _times(torch.matmul(a, b), alpha) + _times(c, beta)

    return run


def _times(x: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return x
    return x * factor if x.is_floating_point() else (x * factor).to(x.dtype)


def _linear(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    if c is None or (c.dim() == 1 and c.shape[0] == b.shape[0]):
        return F.linear(a, b, c)
    return F.linear(a, b) + c


@op("Einsum")
def einsum(call: Call) -> Function:
    """Any contraction that letters can say."""
    equation = call.text("equation").replace(" ", "")

    def run(*inputs: Tensor) -> Tensor:
        result: Tensor = torch.einsum(equation, *inputs)
        return result

    return run


@op("Det")
def determinant(call: Call) -> Function:
    """Determinants of a stack of matrices."""
    return lambda x: torch.linalg.det(x)
