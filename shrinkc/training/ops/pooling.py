"""Pools: the largest, the mean or a norm of every window, or of the whole plane."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table, read_ints
from shrinkc.training.ops.windows import Windows, for_torch, is_symmetric

op = Table()
OPS = op.ops

MAXIMUM: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


op.plain(
    GlobalAveragePool=lambda x: torch.mean(x, _spatial(x), keepdim=True),
    GlobalMaxPool=lambda x: torch.amax(x, _spatial(x), keepdim=True),
)


@op("GlobalLpPool")
def global_lp_pool(call: Call) -> Function:
    """The p-norm of every plane."""
    p = call.integer("p", 2)
    return lambda x: torch.linalg.vector_norm(x, p, _spatial(x), keepdim=True)


@op("MaxPool")
def max_pool(call: Call) -> Function:
    """The largest of every window, and where it was, if asked for."""
    windows, wants_index = Windows.of(call), call.has_output(1)
    column_major, n = bool(call.integer("storage_order")), len(windows.kernel)
    pads = windows.pads
    function = MAXIMUM.get(n)
    is_simple = pads is not None and is_symmetric(pads) and not windows.is_ceil and not wants_index
    is_simple = is_simple and all(2 * p <= k for p, k in zip(pads or (), windows.kernel, strict=False))
    if is_simple and function is not None:
        before = tuple((pads or ())[:n])
        return lambda x: _in_float(x, lambda y: function(y, windows.kernel, windows.strides, before, windows.dilations))
    if wants_index:
        return lambda x: _with_positions(x, windows, column_major)
    return lambda x: _in_float(x, lambda y: _windows_of(y, windows, -torch.inf)[0].amax(-1))


def _in_float(x: Tensor, function: Any) -> Tensor:
    """Torch pools no integers; small ones are exact in double precision."""
    result: Tensor = function(x) if x.is_floating_point() else function(x.to(torch.float64)).to(x.dtype)
    return result


def _with_positions(x: Tensor, windows: Windows, column_major: bool) -> tuple[Tensor, Tensor]:
    """Maxima, and their flat positions in the input, batch and channels included."""
    values, pads, _ = _windows_of(x if x.is_floating_point() else x.to(torch.float64), windows, -torch.inf)
    best, which = values.max(-1)
    n, sizes = len(windows.kernel), x.shape[2:]
    flat = torch.zeros_like(which)
    offsets: list[Tensor] = []
    rest = which
    for axis in reversed(range(n)):
        offsets.insert(0, rest % windows.kernel[axis])
        rest = rest // windows.kernel[axis]
    for axis in reversed(range(n)) if column_major else range(n):
        start = torch.arange(best.shape[2 + axis], device=x.device) * windows.strides[axis] - pads[axis]
        place = start.reshape(-1, *(1,) * (n - 1 - axis)) + offsets[axis] * windows.dilations[axis]
        flat = flat * sizes[axis] + place
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *(1,) * n)
    return best.to(x.dtype), flat + planes * prod(sizes)


def output_sizes(windows: Windows, sizes: Sequence[int], pads: Sequence[int]) -> list[int]:
    """Windows along every axis; with ``ceil_mode`` a last one may hang over, if it starts inside input or padding before."""
    n, result = len(sizes), []
    for axis in range(n):
        room = sizes[axis] + pads[axis] + pads[axis + n] - windows.spans[axis]
        stride = windows.strides[axis]
        count = (-(-room // stride) if windows.is_ceil else room // stride) + 1
        if windows.is_ceil and (count - 1) * stride >= sizes[axis] + pads[axis]:
            count -= 1
        result.append(count)
    return result


def _windows_of(x: Tensor, windows: Windows, fill: float) -> tuple[Tensor, Sequence[int], list[int]]:
    """Every window laid out along a last axis; with the paddings, and the number of windows by axis."""
    pads, n = windows.paddings(x.shape[2:]), len(windows.kernel)
    counts = output_sizes(windows, x.shape[2:], pads)
    needed = [
        (c - 1) * s + span - size - before
        for c, s, span, size, before in zip(counts, windows.strides, windows.spans, x.shape[2:], pads, strict=False)
    ]
    x = F.pad(x, for_torch([*pads[:n], *(max(0, amount) for amount in needed)]), value=fill)
    for axis in range(n):
        x = x.unfold(2 + axis, windows.spans[axis], windows.strides[axis])[(slice(None),) * (2 + axis) + (slice(counts[axis]),)]
        x = x[..., :: windows.dilations[axis]]
    return x.flatten(-n), pads, counts


@op("AveragePool")
def average_pool(call: Call) -> Function:
    """The mean of every window; paddings count or do not."""
    windows, counts_pads = Windows.of(call), bool(call.integer("count_include_pad"))
    pads, n = windows.pads, len(windows.kernel)
    is_simple = pads is not None and is_symmetric(pads) and not windows.is_ceil and set(windows.dilations) == {1}
    is_simple = is_simple and all(2 * p <= k for p, k in zip(pads or (), windows.kernel, strict=False))
    function = AVERAGE.get(n)
    if is_simple and function is not None:
        before = tuple((pads or ())[:n])
        return lambda x: function(x, windows.kernel, windows.strides, before, False, counts_pads)
    return lambda x: _averaged(x, windows, counts_pads)


def _averaged(x: Tensor, windows: Windows, counts_pads: bool) -> Tensor:
    values, pads, _ = _windows_of(x, windows, 0.0)
    weights = torch.ones_like(x[:1, :1])
    if counts_pads:  # what hangs over the padding, in ceil mode, does not count
        n = len(windows.kernel)
        weights = F.pad(weights, for_torch(pads), value=1.0)
        inside = Windows(windows.kernel, windows.strides, windows.dilations, (0,) * (2 * n), "NOTSET", windows.is_ceil)
        counted = _windows_of(weights, inside, 0.0)[0]
        counted = counted[tuple(slice(size) for size in (1, 1, *values.shape[2:-1]))]
    else:
        counted = _windows_of(weights, windows, 0.0)[0]
    return values.sum(-1) / counted.sum(-1)


@op("LpPool")
def lp_pool(call: Call) -> Function:
    """The p-norm of every window."""
    windows, p = Windows.of(call), call.integer("p", 2)
    return lambda x: torch.linalg.vector_norm(_windows_of(x, windows, 0.0)[0], p, -1)


@op("MaxUnpool")
def max_unpool(call: Call) -> Function:
    """Values put back where MaxPool found them."""
    windows = Windows.of(call)

    def run(x: Tensor, index: Tensor, shape: Tensor | None = None) -> Tensor:
        pads = windows.paddings(x.shape[2:])
        n = len(windows.kernel)
        natural = [
            (size - 1) * s + k - pads[i] - pads[i + n]
            for i, (size, s, k) in enumerate(zip(x.shape[2:], windows.strides, windows.kernel, strict=True))
        ]
        full = [*x.shape[:2], *natural]
        flat = x.new_zeros(prod(full)).index_put((index.reshape(-1),), x.reshape(-1)).reshape(full)
        wanted = read_ints(shape)
        if wanted is None or wanted == full:
            return flat
        # The positions hold for the natural size; a larger one is filled up behind.
        return F.pad(flat, for_torch([0] * n + [want - have for want, have in zip(wanted[2:], natural, strict=True)]))

    return run
