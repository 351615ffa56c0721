"""Picking elements: gathers, scatters, top values, and what finds positions."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops


@op("Gather")
def gather(call: Call) -> Function:
    """Slices along an axis by position; negative positions count from the end."""
    axis = call.integer("axis")
    known = call.constant(1)
    if known is not None and known.dim() == 0:
        position = int(known)
        return lambda x, _: x.select(axis, position)

    def run(x: Tensor, index: Tensor) -> Tensor:
        place = axis % x.dim()
        index = _counted_from_start(index.long(), x.shape[place])
        if place == 0 and x.dim() == 2 and x.is_floating_point():
            return F.embedding(index, x)
        picked = torch.index_select(x, place, index.reshape(-1))
        return picked.reshape((*x.shape[:place], *index.shape, *x.shape[place + 1 :]))

    return run


def _counted_from_start(index: Tensor, size: int) -> Tensor:
    return torch.where(index < 0, index + size, index)


@op("GatherElements")
def gather_elements(call: Call) -> Function:
    """One element for every position of the index."""
    axis = call.integer("axis")
    return lambda x, index: torch.gather(x, axis, _counted_from_start(index.long(), x.shape[axis]))


@op("GatherND")
def gather_nd(call: Call) -> Function:
    """Slices by tuples of positions, sample by sample along the first ``batch_dims`` axes."""
    batch = call.integer("batch_dims")

    def run(x: Tensor, index: Tensor) -> Tensor:
        index = index.long()
        outer = [
            torch.arange(x.shape[i], device=x.device).reshape((1,) * i + (-1,) + (1,) * (index.dim() - 2 - i))
            for i in range(batch)
        ]
        return x[(*outer, *index.unbind(-1))]

    return run


SCATTERS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@op("Scatter", "ScatterElements")
def scatter_elements(call: Call) -> Function:
    """One element put at every position of the index, or joined with what is there."""
    axis, reduction = call.integer("axis"), call.text("reduction", "none")

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        index, updates = _counted_from_start(index.long(), x.shape[axis]), updates.to(x.dtype)
        if reduction == "none":
            return torch.scatter(x, axis, index, updates)
        return torch.scatter_reduce(x, axis, index, updates, SCATTERS[reduction])

    return run


@op("ScatterND")
def scatter_nd(call: Call) -> Function:
    """Slices put at tuples of positions, or joined with what is there."""
    reduction = call.text("reduction", "none")

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        places, updates = index.long().unbind(-1), updates.to(x.dtype)
        if reduction == "none":
            return x.index_put(places, updates)
        if reduction == "add":
            return x.index_put(places, updates, accumulate=True)
        return _scatter_reduced(x, index.long(), updates, SCATTERS[reduction])

    return run


def _scatter_reduced(x: Tensor, index: Tensor, updates: Tensor, reduction: str) -> Tensor:
    depth = index.shape[-1]
    inner = x.shape[depth:]
    flat = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for axis, positions in enumerate(index.unbind(-1)):
        flat = flat * x.shape[axis] + _counted_from_start(positions, x.shape[axis])
    rows = x.reshape(prod(x.shape[:depth]), prod(inner))
    where = flat.reshape(-1, 1).expand(-1, prod(inner))
    return torch.scatter_reduce(rows, 0, where, updates.reshape(-1, prod(inner)), reduction).reshape(x.shape)


@op("TensorScatter")
def tensor_scatter(call: Call) -> Function:
    """New entries written into a cache along an axis, from a position for every sample on."""
    axis, is_circular = call.integer("axis", -2), call.text("mode", "linear") == "circular"

    def run(past: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
        place = axis % past.dim()
        begin = past.new_zeros(past.shape[0], dtype=torch.int64) if starts is None else starts.long()
        index = begin[:, None] + torch.arange(update.shape[place], device=past.device)[None]
        index = index % past.shape[place] if is_circular else index
        shape = [past.shape[0], *(1,) * (place - 1), update.shape[place], *(1,) * (past.dim() - place - 1)]
        return past.scatter(place, index.reshape(shape).expand(update.shape), update)

    return run


@op("TopK")
def top_k(call: Call) -> Function:
    """The k largest or smallest; of equals the first come first."""
    axis, largest, read = call.integer("axis", -1), bool(call.integer("largest", 1)), call.reader(1)
    fixed = call.integer("k") if call.has("k") else None

    def run(x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        k = fixed if fixed is not None else (read(count) or [0])[0]
        values, index = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, k), index.narrow(axis, 0, k)

    return run


@op("NonZero")
def non_zero(call: Call) -> Function:
    """Positions of what is not zero, one row an axis."""
    return lambda x: torch.nonzero(x.reshape(1) if x.dim() == 0 else x).t()[: x.dim()]


@op("Compress")
def compress(call: Call) -> Function:
    """Slices where a condition holds, or elements of the flat tensor."""
    axis = call.integer("axis") if call.has("axis") else None

    def run(x: Tensor, condition: Tensor) -> Tensor:
        y, along = (x.reshape(-1), 0) if axis is None else (x, axis)
        return torch.index_select(y, along, torch.nonzero(condition[: y.shape[along]]).reshape(-1))

    return run


@op("OneHot")
def one_hot(call: Call) -> Function:
    """One value at a position, another everywhere else."""
    axis, read = call.integer("axis", -1), call.reader(1)

    def run(index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        size = (read(depth) or [0])[0]
        places = index.long()
        is_inside = (places >= -size) & (places < size)
        hot = F.one_hot(torch.where(is_inside, places % size, 0), size).bool() & is_inside[..., None]
        return torch.where(hot, values[1], values[0]).movedim(-1, axis)

    return run


@op("Unique")
def unique(call: Call) -> Function:
    """Distinct slices, where each first is, which each was, and how often."""
    axis, is_sorted = (call.integer("axis") if call.has("axis") else None), call.integer("sorted", 1)

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y, along = (x.reshape(-1), 0) if axis is None else (x, axis % x.dim())
        found: Any = torch.unique(y, sorted=True, return_inverse=True, return_counts=True, dim=along)
        values, inverse, counts = found
        order = torch.arange(y.shape[along], device=x.device)
        first = torch.full_like(counts, y.shape[along]).scatter_reduce(0, inverse, order, "amin")
        if is_sorted:
            return values, first, inverse, counts
        ranks = torch.argsort(first)
        return values.index_select(along, ranks), first[ranks], torch.argsort(ranks)[inverse], counts[ranks]

    return run
