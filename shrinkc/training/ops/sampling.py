"""Reading an image at given places: grids, regions, deformed convolutions, unpooled regions."""

from __future__ import annotations

from math import ceil, prod

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table
from shrinkc.training.ops.windows import Windows, for_torch

op = Table()
OPS = op.ops

MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


@op("GridSample")
def grid_sample(call: Call) -> Function:
    """An image read at a grid of places between -1 and 1."""
    mode, padding = MODES[call.text("mode", "linear")], call.text("padding_mode", "zeros")
    is_aligned = bool(call.integer("align_corners"))
    return lambda x, grid: F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=is_aligned)


@op("AffineGrid")
def affine_grid(call: Call) -> Function:
    """A regular grid, turned and moved."""
    is_aligned, read = bool(call.integer("align_corners")), call.reader(1)
    return lambda theta, size: F.affine_grid(theta, read(size) or [], align_corners=is_aligned)


def bilinear(x: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Values of an image ``(C, H, W)`` at places of any shape; those more than a pixel outside are zero."""
    height, width = x.shape[1:]
    is_inside = (ys >= -1) & (ys <= height) & (xs >= -1) & (xs <= width)
    ys, xs = ys.clamp(0, height - 1), xs.clamp(0, width - 1)
    top, left = ys.floor().long(), xs.floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    dy, dx = ys - top, xs - left
    upper = x[:, top, left] * (1 - dx) + x[:, top, right] * dx
    lower = x[:, bottom, left] * (1 - dx) + x[:, bottom, right] * dx
    return (upper * (1 - dy) + lower * dy) * is_inside


def _corners(x: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """The four weighted neighbours of every place, along a new last axis."""
    height, width = x.shape[1:]
    is_inside = (ys >= -1) & (ys <= height) & (xs >= -1) & (xs <= width)
    ys, xs = ys.clamp(0, height - 1), xs.clamp(0, width - 1)
    top, left = ys.floor().long(), xs.floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    dy, dx = ys - top, xs - left
    parts = [
        x[:, top, left] * ((1 - dy) * (1 - dx)),
        x[:, top, right] * ((1 - dy) * dx),
        x[:, bottom, left] * (dy * (1 - dx)),
        x[:, bottom, right] * (dy * dx),
    ]
    return torch.stack(parts, -1) * is_inside[..., None]


@op("RoiAlign")
def roi_align(call: Call) -> Function:
    """Regions of any size read into cells of a fixed number."""
    mode, ratio = call.text("mode", "avg"), call.integer("sampling_ratio")
    height, width = call.integer("output_height", 1), call.integer("output_width", 1)
    scale = call.number("spatial_scale", 1.0)
    is_half = (
        call.text("coordinate_transformation_mode", "half_pixel" if call.version >= 16 else "output_half_pixel") == "half_pixel"
    )

    def run(x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
        cells = [
            _cells(x[int(b)], roi * scale, height, width, ratio, is_half, mode) for roi, b in zip(rois, batch, strict=True)
        ]
        return torch.stack(cells) if cells else x.new_zeros(0, x.shape[1], height, width)

    return run


def _cells(x: Tensor, roi: Tensor, height: int, width: int, ratio: int, is_half: bool, mode: str) -> Tensor:
    offset = 0.5 if is_half else 0.0
    x1, y1, x2, y2 = (roi - offset).unbind()
    tall, wide = y2 - y1, x2 - x1
    if not is_half:
        tall, wide = tall.clamp(min=1), wide.clamp(min=1)
    n_y = ratio if ratio > 0 else max(1, ceil(float(tall) / height))
    n_x = ratio if ratio > 0 else max(1, ceil(float(wide) / width))
    ys = y1 + (torch.arange(height * n_y, device=x.device) + 0.5) * tall / (height * n_y)
    xs = x1 + (torch.arange(width * n_x, device=x.device) + 0.5) * wide / (width * n_x)
    places = torch.meshgrid(ys, xs, indexing="ij")
    if mode == "avg":
        read = bilinear(x, *places)
        return read.reshape(x.shape[0], height, n_y, width, n_x).mean((2, 4))
    read = _corners(x, *places).amax(-1)
    return read.reshape(x.shape[0], height, n_y, width, n_x).amax((2, 4))


@op("MaxRoiPool")
def max_roi_pool(call: Call) -> Function:
    """The largest value in every cell of every region."""
    height, width = call.integers("pooled_shape") or [1, 1]
    scale = call.number("spatial_scale", 1.0)

    def run(x: Tensor, rois: Tensor) -> Tensor:
        return torch.stack([_pooled(x, roi, height, width, scale) for roi in rois])

    return run


def _pooled(x: Tensor, roi: Tensor, height: int, width: int, scale: float) -> Tensor:
    batch, *corners = [int(torch.floor(item + 0.5)) for item in (roi[0], *(roi[1:] * scale))]
    x1, y1, x2, y2 = corners
    tall, wide = max(y2 - y1 + 1, 1) / height, max(x2 - x1 + 1, 1) / width
    image, rows = x[batch], []
    for i in range(height):
        top, bottom = (min(max(int(v) + y1, 0), image.shape[1]) for v in (i * tall, ceil((i + 1) * tall)))
        cells = []
        for j in range(width):
            left, right = (min(max(int(v) + x1, 0), image.shape[2]) for v in (j * wide, ceil((j + 1) * wide)))
            cell = image[:, top:bottom, left:right]
            cells.append(cell.amax((1, 2)) if cell.numel() else image.new_zeros(image.shape[0]))
        rows.append(torch.stack(cells, -1))
    return torch.stack(rows, 1)


@op("DeformConv")
def deform_conv(call: Call) -> Function:
    """Convolution whose windows read at places moved by offsets, each weighted by a mask."""
    group, offset_group = call.integer("group", 1), call.integer("offset_group", 1)

    def run(x: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        windows = Windows.of(call, w.shape[2:])
        columns = _deformed(F.pad(x, for_torch(windows.paddings(x.shape[2:]))), offset, mask, windows, offset_group)
        n, out = x.shape[0], offset.shape[2:]
        kernel = prod(windows.kernel)
        parts = columns.reshape(n, group, x.shape[1] // group * kernel, prod(out))
        weight = w.reshape(group, w.shape[0] // group, -1)
        result = torch.einsum("goc,ngcp->ngop", weight, parts).reshape(n, w.shape[0], *out)
        return result if b is None else result + b.reshape(-1, 1, 1)

    return run


def _deformed(x: Tensor, offset: Tensor, mask: Tensor | None, windows: Windows, groups: int) -> Tensor:
    """What every window reads, shape (N, C, taps, positions); ``x`` is padded already."""
    n, channels = x.shape[:2]
    (kh, kw), (sh, sw), (dh, dw), (oh, ow) = windows.kernel, windows.strides, windows.dilations, offset.shape[2:]
    moves = offset.reshape(n, groups, kh * kw, 2, oh, ow)
    taps_y = (torch.arange(kh, device=x.device) * dh).repeat_interleave(kw).reshape(-1, 1, 1)
    taps_x = (torch.arange(kw, device=x.device) * dw).repeat(kh).reshape(-1, 1, 1)
    ys = moves[:, :, :, 0] + taps_y + (torch.arange(oh, device=x.device) * sh).reshape(1, -1, 1)
    xs = moves[:, :, :, 1] + taps_x + (torch.arange(ow, device=x.device) * sw).reshape(1, 1, -1)
    each = channels // groups
    samples = []
    for i in range(n):
        parts = [_zero_outside(x[i, g * each : (g + 1) * each], ys[i, g], xs[i, g]) for g in range(groups)]
        samples.append(torch.cat(parts))
    read = torch.stack(samples)
    if mask is not None:
        read = read * mask.reshape(n, groups, kh * kw, oh, ow).repeat_interleave(each, 1)
    return read.flatten(3)


def _zero_outside(x: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Bilinear values, where everything around the image is zero."""
    padded = F.pad(x, (1, 1, 1, 1))
    return bilinear(padded, ys.clamp(-1, x.shape[1]) + 1, xs.clamp(-1, x.shape[2]) + 1)
