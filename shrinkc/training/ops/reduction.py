"""Reductions over axes: sums, means, norms, extrema, positions of extrema, running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops

Reduce = Callable[[Tensor, Sequence[int], bool], Tensor]


def _sum(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    return torch.sum(x, list(axes), keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, list(axes), keepdim=keep)
    count = max(1, x.numel()) // max(1, torch.sum(x, list(axes)).numel())
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc")


def _product(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _norm_1(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _norm_2(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    y = x if x.is_floating_point() else x.to(torch.float64)
    result: Tensor = torch.linalg.vector_norm(y, 2, list(axes), keepdim=keep)
    return result.to(x.dtype)


def _squares(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


def _log_sum(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    return torch.log(_sum(x, axes, keep)).to(x.dtype)


def _log_sum_exp(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    return torch.logsumexp(x if x.is_floating_point() else x.to(torch.float64), list(axes), keepdim=keep).to(x.dtype)


def _extremum(largest: bool) -> Reduce:
    def run(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
        if any(x.shape[axis] == 0 for axis in axes):
            return _of_nothing(x, axes, keep, largest)
        if x.dtype == torch.bool:
            return run(x.to(torch.uint8), axes, keep).to(torch.bool)
        return (torch.amax if largest else torch.amin)(x, list(axes), keepdim=keep)

    return run


def _of_nothing(x: Tensor, axes: Sequence[int], keep: bool, largest: bool) -> Tensor:
    shape = torch.sum(x, list(axes), keepdim=keep).shape
    if x.is_floating_point():
        return x.new_full(shape, float("-inf") if largest else float("inf"))
    if x.dtype == torch.bool:
        return x.new_full(shape, not largest)
    limits = torch.iinfo(x.dtype)
    return x.new_full(shape, limits.min if largest else limits.max)


REDUCTIONS: dict[str, Reduce] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceProd": _product,
    "ReduceL1": _norm_1,
    "ReduceL2": _norm_2,
    "ReduceSumSquare": _squares,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extremum(True),
    "ReduceMin": _extremum(False),
}


def reduction(reduce: Reduce) -> Callable[[Call], Function]:
    """Builder of a reduction; axes are an attribute in older opsets, an input since; none means all, or nothing at all."""

    def build(call: Call) -> Function:
        read, keep = call.axes(1), bool(call.integer("keepdims", 1))
        does_nothing = bool(call.integer("noop_with_empty_axes"))

        def run(x: Tensor, given: Tensor | None = None) -> Tensor:
            axes = read(given)
            if not axes:
                axes = [] if does_nothing else list(range(x.dim()))
            if not axes:
                return reduce(x[None], [0], False) if not does_nothing or reduce is not _sum else x
            return reduce(x, axes, keep)

        return run

    return build


for _name, _reduce in REDUCTIONS.items():
    op(_name)(reduction(_reduce))


@op("ArgMax", "ArgMin")
def position(call: Call) -> Function:
    """Position of an extremum, the first or the last."""
    axis, keep, last = call.integer("axis"), bool(call.integer("keepdims", 1)), bool(call.integer("select_last_index"))
    find: Any = torch.argmax if call.node.op_type == "ArgMax" else torch.argmin

    def run(x: Tensor) -> Tensor:
        if not last:
            return _first(x, axis, keep, find)
        found = _first(x.flip(axis), axis, keep, find)
        return x.shape[axis] - 1 - found

    return run


def _first(x: Tensor, axis: int, keep: bool, find: Any) -> Tensor:
    """Torch does not promise which of equals it takes: take the first."""
    extreme = (torch.amax if find is torch.argmax else torch.amin)(x, axis, keepdim=True)
    found: Tensor = torch.argmax((x == extreme).to(torch.uint8), axis, keepdim=keep)
    return found


@op("CumSum", "CumProd")
def cumulated(call: Call) -> Function:
    """Running sums or products, with or without the element itself, from either end."""
    read, exclusive, reverse = call.reader(1), call.integer("exclusive"), call.integer("reverse")
    is_sum = call.node.op_type == "CumSum"

    def run(x: Tensor, axis_at: Tensor) -> Tensor:
        axis = (read(axis_at) or [0])[0]
        x = x.flip(axis) if reverse else x
        result = torch.cumsum(x, axis, dtype=x.dtype) if is_sum else torch.cumprod(x, axis, dtype=x.dtype)
        if exclusive:
            first = torch.full_like(x.narrow(axis, 0, 1), 0 if is_sum else 1)
            result = torch.cat([first, result.narrow(axis, 0, x.shape[axis] - 1)], axis)
        return result.flip(axis) if reverse else result

    return run
