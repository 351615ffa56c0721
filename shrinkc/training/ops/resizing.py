"""Resize in all its forms: along every axis, a weighted sum of a few source positions.

Sampling positions, filters and edge rules are those of the ONNX operator.  Where torch has the same thing as one function
(the usual 2-D cases), that is called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops


BY_DIRECTION = "floor_or_ceil"
"""The rule of opset 10 for the nearest position: the one before where an axis grows, the one after where it shrinks."""


@dataclass(frozen=True)
class Manner:
    """Attributes of a Resize."""

    mode: str
    positions: str
    nearest: str
    cubic: float
    is_antialiased: bool
    excludes_outside: bool
    outside: float
    policy: str

    @classmethod
    def of(cls, call: Call) -> Manner:
        """Attributes of a node; opset 10 knew asymmetric positions only."""
        positions = "asymmetric" if call.version < 11 else "half_pixel"
        return cls(
            call.text("mode", "nearest"),
            call.text("coordinate_transformation_mode", positions),
            call.text("nearest_mode", BY_DIRECTION if call.version < 11 else "round_prefer_floor"),
            call.number("cubic_coeff_a", -0.75),
            bool(call.integer("antialias")),
            bool(call.integer("exclude_outside")),
            call.number("extrapolation_value"),
            call.text("keep_aspect_ratio_policy", "stretch"),
        )


@op("Upsample", since=1)
def upsample_by_attribute(call: Call) -> Function:
    """Scales as an attribute (opset 7)."""
    manner, scales = Manner.of(call), call.numbers("scales") or []
    return lambda x: resized(x, scales, _scaled(x, scales), manner)


@op("Upsample", since=9)
@op("Resize", since=10)
def resize_by_scales(call: Call) -> Function:
    """Scales as an input (opset 10)."""
    manner, known = Manner.of(call), call.constant(1)
    fixed = None if known is None else [float(item) for item in known.tolist()]

    def run(x: Tensor, given: Tensor) -> Tensor:
        scales = fixed if fixed is not None else [float(item) for item in given.tolist()]
        return resized(x, scales, _scaled(x, scales), manner)

    return run


@op("Resize", since=11)
def resize(call: Call) -> Function:
    """Scales or sizes as inputs, for all axes or some."""
    manner, axes = Manner.of(call), call.integers("axes")
    known_scales, known_sizes = _listed(call.constant(2)), _listed(call.constant(3))

    def run(x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        which = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
        factors = known_scales if known_scales is not None else _listed(scales)
        wanted = known_sizes if known_sizes is not None else _listed(sizes)
        regions = _regions(_listed(roi), which, x.dim()) if manner.positions == "tf_crop_and_resize" else None
        if wanted is not None:
            return _to_sizes(x, [int(size) for size in wanted], which, manner, regions)
        full = [1.0] * x.dim()
        for axis, factor in zip(which, factors or [], strict=True):
            full[axis] = factor
        return resized(x, full, _scaled(x, full, regions), manner, regions)

    return run


def _listed(tensor: Tensor | None) -> list[float] | None:
    """Numbers of an input; an empty one is as good as none."""
    return None if tensor is None or tensor.numel() == 0 else [float(item) for item in tensor.tolist()]


Regions = list[tuple[float, float]]


def _regions(roi: list[float] | None, axes: Sequence[int], rank: int) -> Regions:
    result = [(0.0, 1.0)] * rank
    for i, axis in enumerate(axes):
        if roi is not None:
            result[axis] = (roi[i], roi[i + len(axes)])
    return result


def _scaled(x: Tensor, scales: Sequence[float], regions: Regions | None = None) -> list[int]:
    spans = [end - start for start, end in regions] if regions is not None else [1.0] * x.dim()
    exact = (size * scale * span for size, scale, span in zip(x.shape, scales, spans, strict=True))
    return [math.floor(np.float32(size)) for size in exact]  # rounded first, as 10 * 0.7 in single precision is 7


def _to_sizes(x: Tensor, wanted: list[int], axes: list[int], manner: Manner, regions: Regions | None) -> Tensor:
    full, scales = list(x.shape), [1.0] * x.dim()
    if manner.policy != "stretch":
        ratios = [size / x.shape[axis] for size, axis in zip(wanted, axes, strict=True)]
        ratio = min(ratios) if manner.policy == "not_larger" else max(ratios)
        for axis in axes:
            full[axis], scales[axis] = math.floor(x.shape[axis] * ratio + 0.5), ratio
    else:
        for axis, size in zip(axes, wanted, strict=True):
            full[axis], scales[axis] = size, size / x.shape[axis]
    return resized(x, scales, full, manner, regions)


def resized(x: Tensor, scales: Sequence[float], sizes: Sequence[int], manner: Manner, regions: Regions | None = None) -> Tensor:
    """``x`` at other sizes.

    Parameters
    ----------
    x : Tensor
    scales : sequence of float, one an axis
    sizes : sequence of int, one an axis
        What they lead to.
    manner : Manner
    regions : list of (start, end), optional
        Part of every axis, for ``tf_crop_and_resize``.
    """
    ready = _by_torch(x, scales, sizes, manner)
    if ready is not None:
        return ready
    y = x if x.is_floating_point() else x.to(torch.float64)
    outside = torch.zeros((1,) * x.dim(), dtype=torch.bool, device=x.device)
    for axis, (scale, size) in enumerate(zip(scales, sizes, strict=True)):
        region = regions[axis] if regions is not None else (0.0, 1.0)
        if size == x.shape[axis] and scale == 1 and region == (0.0, 1.0):
            continue
        at = positions(x.shape[axis], size, scale, manner, region)
        index, weight = taps(at, x.shape[axis], scale, manner)
        y = _weighted(y, axis, index, weight)
        if manner.positions == "tf_crop_and_resize":
            is_out = ((at < 0) | (at > x.shape[axis] - 1)).to(x.device)
            outside = outside | is_out.reshape((1,) * axis + (-1,) + (1,) * (x.dim() - 1 - axis))
    if manner.positions == "tf_crop_and_resize":
        y = torch.where(outside, torch.full_like(y, manner.outside), y)
    return y if x.is_floating_point() else _as_integers(y, x.dtype)


def _as_integers(y: Tensor, dtype: torch.dtype) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.round(y).clamp(limits.min, limits.max).to(dtype)


def _by_torch(x: Tensor, scales: Sequence[float], sizes: Sequence[int], manner: Manner) -> Tensor | None:
    """The same by torch's own function, where there is one: two spatial axes, the usual positions."""
    is_image = x.dim() == 4 and tuple(sizes[:2]) == tuple(x.shape[:2]) and x.is_floating_point()
    exact = all(abs(size - n * scale) < 1e-6 for size, n, scale in zip(sizes, x.shape, scales, strict=True))
    if not is_image or not exact or manner.is_antialiased or manner.excludes_outside:
        return None
    if manner.mode == "nearest" and manner.positions == "asymmetric" and manner.nearest in ("floor", BY_DIRECTION):
        if all(scale == int(scale) for scale in scales):
            return F.interpolate(x, tuple(sizes[2:]), mode="nearest")
        return None
    is_aligned = manner.positions == "align_corners"
    if (
        not is_aligned
        and manner.positions != "half_pixel"
        and not (manner.positions == "pytorch_half_pixel" and min(sizes) > 1)
    ):
        return None
    if manner.mode == "linear":
        return F.interpolate(x, tuple(sizes[2:]), mode="bilinear", align_corners=is_aligned)
    if manner.mode == "cubic" and manner.cubic == -0.75:
        return F.interpolate(x, tuple(sizes[2:]), mode="bicubic", align_corners=is_aligned)
    return None


def positions(size: int, count: int, scale: float, manner: Manner, region: tuple[float, float]) -> Tensor:
    """Where in the source every result lies, shape ``(count,)``, float64; in the single precision that scales are stored in.

    More precise ones would fall on the other side of what is rounded: (1 + 0.5) / 0.6 - 0.5 is a little less than 2.
    """
    return _positions(torch.arange(count, dtype=torch.float32), size, scale, manner.positions, region).to(torch.float64)


def _positions(at: Tensor, size: int, scale: float, kind: str, region: tuple[float, float]) -> Tensor:
    count = len(at)
    if kind == "asymmetric":
        return _divided(at, scale)
    if kind == "align_corners":
        wide = size * scale - 1  # what the scale says, before it is rounded to whole positions
        return _divided(at * (size - 1), wide) if wide > 0 else torch.zeros_like(at)
    if kind == "tf_crop_and_resize":
        start, end = region
        if count > 1:
            return start * (size - 1) + at * (end - start) * (size - 1) / (count - 1)
        return torch.full_like(at, 0.5 * (start + end) * (size - 1))
    if kind == "pytorch_half_pixel" and count == 1:
        return torch.zeros_like(at)
    if kind == "tf_half_pixel_for_nn":
        return _divided(at + 0.5, scale)
    if kind == "half_pixel_symmetric":
        adjustment = count / (scale * size)
        centre = size / 2
        return centre * (1 - adjustment) + _divided(at + 0.5, scale) - 0.5
    return _divided(at + 0.5, scale) - 0.5


def _divided(at: Tensor, by: float) -> Tensor:
    """Quotients, rounded once: by a plain number torch divides by multiplying with its inverse."""
    return at / torch.full_like(at, by)


def taps(at: Tensor, size: int, scale: float, manner: Manner) -> tuple[Tensor, Tensor]:
    """Source positions and their weights for every result, both of shape ``(count, taps)``."""
    if manner.mode == "nearest":
        rule = manner.nearest
        if rule == BY_DIRECTION:
            rule = "ceil" if scale < 1 else "floor"
        index = _nearest(at, rule).clamp(0, size - 1).long()[:, None]
        return index, torch.ones(index.shape, dtype=torch.float64)
    stretch = max(1.0, 1 / scale) if manner.is_antialiased else 1.0
    reach = (2 if manner.mode == "cubic" else 1) * stretch
    first = torch.ceil(at - reach - 1e-9)
    index = first[:, None] + torch.arange(math.floor(2 * reach) + 2, dtype=torch.float64)[None]
    distance = (index - at[:, None]).abs() / stretch
    weight = _cubic(distance, manner.cubic) if manner.mode == "cubic" else (1 - distance).clamp(min=0)
    is_outside = (index < 0) | (index > size - 1)
    if manner.excludes_outside:
        weight = torch.where(is_outside, torch.zeros_like(weight), weight)
    if manner.excludes_outside or manner.is_antialiased:
        weight = weight / weight.sum(1, keepdim=True)
    return index.clamp(0, size - 1).long(), weight


HALF = 0.5 + 1e-6
"""A position this near to the middle, as onnxruntime has it, lies in the middle."""


def _nearest(at: Tensor, rule: str) -> Tensor:
    if rule == "floor":
        return torch.floor(at)
    if rule == "ceil":
        return torch.ceil(at)
    return torch.floor(at + HALF) if rule == "round_prefer_ceil" else torch.ceil(at - HALF)


def _cubic(distance: Tensor, a: float) -> Tensor:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def _weighted(x: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    picked = torch.index_select(x, axis, index.reshape(-1).to(x.device))
    if index.shape[1] == 1 and bool((weight == 1).all()):
        return picked
    picked = picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    shape = (1,) * axis + tuple(weight.shape) + (1,) * (x.dim() - axis - 1)
    return (picked * weight.reshape(shape).to(x.device, x.dtype)).sum(axis + 1)
