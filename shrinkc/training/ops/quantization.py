"""Between real numbers and few-bit ones, and products of few-bit numbers."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.errors import UnsupportedGraphError
from shrinkc.training.ops.call import Call, Function, Table
from shrinkc.training.ops.tensors import CARRIERS, RANGES, dtype_of
from shrinkc.training.ops.windows import Windows, for_torch

op = Table()
OPS = op.ops


def along(scale: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point laid out so that it meets ``x``: one, one a slice along an axis, or one a block of it."""
    if scale.numel() == 1 and not block:
        return scale.reshape(())
    if block:
        return scale.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.dim()
    shape[axis] = -1
    return scale.reshape(shape)


def rounded(y: Tensor, zero: Tensor | None, dtype: torch.dtype, bounds: tuple[int, int] | None = None) -> Tensor:
    """Real numbers in steps, to the nearest even step, within what the type holds or within bounds."""
    if dtype.is_floating_point:
        largest = torch.finfo(dtype).max
        return (y if zero is None else y + zero.to(y.dtype)).clamp(-largest, largest).to(dtype)
    low, high = bounds or (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    y = torch.round(y) if zero is None else torch.round(y) + zero.to(y.dtype)
    return y.clamp(low, high).to(torch.int64).to(dtype)


@op("QuantizeLinear")
def quantize(call: Call) -> Function:
    """round(x / scale) + zero point."""
    axis, block, kind = call.integer("axis", 1), call.integer("block_size"), _target(call)
    dtype, bounds = None if kind is None else CARRIERS.get(kind) or dtype_of(kind), RANGES.get(kind) if kind else None
    if kind == ir.DataType.FLOAT4E2M1:
        raise UnsupportedGraphError("torch cannot round to this element type", because=kind.name)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        target = dtype or (zero.dtype if zero is not None else torch.uint8)
        offset = None if zero is None else along(_as_float(zero), x, axis, block)
        return rounded(_as_float(x) / along(_as_float(scale), x, axis, block), offset, target, bounds)

    return run


def _target(call: Call) -> ir.DataType | None:
    """Element type of the result, where the node or the type of its zero point says it."""
    if call.integer("output_dtype"):
        return ir.DataType(call.integer("output_dtype"))
    zero = call.node.inputs[2] if call.given(2) else None
    return None if zero is None else zero.dtype


def _as_float(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


@op("DequantizeLinear")
def dequantize(call: Call) -> Function:
    """(x - zero point) scale."""
    axis, block, dtype = call.integer("axis", 1), call.integer("block_size"), call.dtype("output_dtype")

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        y = _as_float(x)
        y = y if zero is None else y - along(_as_float(zero), x, axis, block)
        return (y * along(_as_float(scale), x, axis, block)).to(dtype or scale.dtype)

    return run


@op("DynamicQuantizeLinear")
def dynamic_quantize(call: Call) -> Function:
    """Eight bits over the range of the values there are, zero included."""

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        scale = (high - low) / 255
        zero = torch.round((-low / scale).clamp(0, 255)).to(torch.uint8)
        return rounded(x / scale, zero, torch.uint8), scale, zero

    return run


def _centred(x: Tensor, zero: Tensor | None, is_per_row: bool = False) -> Tensor:
    """Small integers as doubles, exact, minus their zero point."""
    y = x.to(torch.float64)
    if zero is None:
        return y
    offset = zero.to(torch.float64)
    return y - (offset[..., None] if is_per_row and offset.dim() == 1 and offset.numel() > 1 else offset)


@op("MatMulInteger")
def matmul_integer(call: Call) -> Function:
    """Product of integers."""

    def run(a: Tensor, b: Tensor, za: Tensor | None = None, zb: Tensor | None = None) -> Tensor:
        return torch.matmul(_centred(a, za, True), _centred(b, zb)).to(torch.int32)

    return run


@op("QLinearMatMul")
def qlinear_matmul(call: Call) -> Function:
    """Product of quantised matrices, quantised again."""

    def run(a: Tensor, sa: Tensor, za: Tensor, b: Tensor, sb: Tensor, zb: Tensor, sy: Tensor, zy: Tensor) -> Tensor:
        product = torch.matmul(_centred(a, za, True), _centred(b, zb))
        row_scale = sa.to(torch.float64)
        row_scale = row_scale[..., None] if row_scale.dim() == 1 and row_scale.numel() > 1 else row_scale
        return rounded(product * row_scale * sb.to(torch.float64) / sy.to(torch.float64), zy, zy.dtype)

    return run


def _integer_conv(call: Call, x: Tensor, w: Tensor) -> Tensor:
    windows, group, n = Windows.of(call, w.shape[2:]), call.integer("group", 1), w.dim() - 2
    functions: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
    padded = F.pad(x, for_torch(windows.paddings(x.shape[2:])))
    result: Tensor = functions[n](padded, w, None, windows.strides, 0, windows.dilations, group)
    return result


def _per_output(zero: Tensor, w: Tensor) -> Tensor:
    return zero.reshape(-1, *(1,) * (w.dim() - 1)) if zero.numel() > 1 else zero.reshape(())


@op("ConvInteger")
def conv_integer(call: Call) -> Function:
    """Convolution of integers; paddings are zero points."""

    def run(x: Tensor, w: Tensor, zx: Tensor | None = None, zw: Tensor | None = None) -> Tensor:
        weight = _centred(w, None if zw is None else _per_output(zw, w))
        return _integer_conv(call, _centred(x, zx), weight).to(torch.int32)

    return run


@op("QLinearConv")
def qlinear_conv(call: Call) -> Function:
    """Convolution of quantised tensors, quantised again."""

    def run(
        x: Tensor, sx: Tensor, zx: Tensor, w: Tensor, sw: Tensor, zw: Tensor, sy: Tensor, zy: Tensor, b: Tensor | None = None
    ) -> Tensor:
        y = _integer_conv(call, _centred(x, zx), _centred(w, _per_output(zw, w)))
        column = (-1, *(1,) * (y.dim() - 2))
        y = y if b is None else y + b.to(torch.float64).reshape(column)
        scale = sx.to(torch.float64) * sw.to(torch.float64)
        scale = scale.reshape(column) if scale.numel() > 1 else scale.reshape(())
        return rounded(y * scale / sy.to(torch.float64), zy, zy.dtype)

    return run
