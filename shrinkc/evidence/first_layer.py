"""What a model knows of its input: the statistics of the first BatchNormalization, and what lies between.

Between may lie changes of the values that are the same everywhere (Add, Sub, Mul and Div by constants, Cast), padding,
changes of layout, and one linear layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import input_at, int_of, ints_of, string_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Affine:
    """``value * gain + offset``; both broadcast to the value, which they are as many axes as."""

    gain: FloatArray
    offset: FloatArray

    @classmethod
    def none(cls, rank: int) -> Affine:
        """Leave the values as they are."""
        return cls(np.ones((1,) * rank), np.zeros((1,) * rank))

    def per_channel(self) -> tuple[FloatArray, FloatArray] | None:
        """Gain and offset along axis 1, of length 1 or channels; None if they differ along another axis."""
        for array in (self.gain, self.offset):
            if any(size != 1 for axis, size in enumerate(array.shape) if axis != 1):
                return None
        return self.gain.reshape(-1), self.offset.reshape(-1)


@dataclass(frozen=True)
class Window:
    """How the taps of a kernel move along one spatial axis; padding is with zeros.

    Attributes
    ----------
    size : int
        Of the input.
    taps, stride, dilation, begin, end : int
    """

    size: int
    taps: int
    stride: int
    dilation: int
    begin: int
    end: int

    def is_inside(self) -> NDArray[np.bool_]:
        """Whether a tap reads the input, not the padding: shape (positions, taps)."""
        n_positions = (self.size + self.begin + self.end - self.dilation * (self.taps - 1) - 1) // self.stride + 1
        read = np.arange(n_positions)[:, None] * self.stride + np.arange(self.taps) * self.dilation - self.begin
        return (read >= 0) & (read < self.size)


@dataclass(frozen=True)
class Linear:
    """A convolution; a matrix product is one without spatial axes.

    Attributes
    ----------
    kernel : ndarray of shape (outputs, channels, *taps), float64
        Dense: groups are filled up with zeros.
    windows : tuple of Window
        One per spatial axis.
    """

    kernel: FloatArray
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class FirstLayer:
    """The way from an input to the first statistics.

    Attributes
    ----------
    axes : tuple of int
        Axis of the input that lies at each axis of the layer (samples, channels, spatial).
    gain, offset : ndarray of shape (channels,) or (1,), float64
        What happens to the input before the layer.
    linear : Linear or None
        None if the statistics are those of the input itself.
    mean, variance : ndarray of shape (outputs,), float64
        Statistics of the layer's output, without its bias.
    """

    axes: tuple[int, ...]
    gain: FloatArray
    offset: FloatArray
    linear: Linear | None
    mean: FloatArray
    variance: FloatArray


@dataclass(frozen=True)
class _Reach:
    """How far the walk has come."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    before: Affine
    linear: Linear | None = None
    after: Affine | None = None

    @property
    def affine(self) -> Affine:
        return self.before if self.after is None else self.after

    def changed(self, gain: FloatArray, offset: FloatArray) -> _Reach | None:
        """The value times ``gain``, plus ``offset``."""
        if self.after is None and any(map(any, self.pads)) and offset.any():
            return None  # the padding is no longer zero
        combined = Affine(self.affine.gain * gain, self.affine.offset * gain + offset)
        return replace(self, before=combined) if self.after is None else replace(self, after=combined)


def find(value: ir.Value, shape: tuple[int, ...]) -> FirstLayer | None:
    """First statistics behind a graph input of a concrete shape; None if it is not known how they come about."""
    rank = len(shape)
    start = _Reach(shape, tuple(range(rank)), ((0, 0),) * rank, Affine.none(rank))
    return _search(value, start) if rank >= 2 else None


def _search(value: ir.Value, reach: _Reach) -> FirstLayer | None:
    for node, index in value.uses():
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "BatchNormalization" and index == 0:
            found = _ending(node, reach)
        else:
            step = STEPS.get(node.op_type)
            next_reach = None if step is None else step(node, index, reach)
            found = None if next_reach is None else _search(node.outputs[0], next_reach)
        if found is not None:
            return found
    return None


def _ending(node: ir.Node, reach: _Reach) -> FirstLayer | None:
    mean, variance = _constant(node, 3), _constant(node, 4)
    before, after = reach.before.per_channel(), reach.affine.per_channel()
    if mean is None or variance is None or before is None or after is None:
        return None
    if int_of(node, "training_mode", 0) or not before[0].all() or not after[0].all() or (variance < 0).any():
        return None
    if reach.linear is None:
        if any(map(any, reach.pads)):
            return None
        return FirstLayer(reach.axes, *before, None, mean, variance)
    return FirstLayer(reach.axes, *before, reach.linear, (mean - after[1]) / after[0], variance / after[0] ** 2)


def _constant(node: ir.Node, index: int) -> FloatArray | None:
    """Stored numbers that a node reads, float64."""
    value = input_at(node, index)
    while value is not None and (producer := value.producer()) is not None and producer.op_type == "Identity":
        value = producer.inputs[0]
    tensor = None if value is None else shrinkc_ir.constant_tensor(value)
    if tensor is None or (not tensor.dtype.is_floating_point() and not tensor.dtype.is_integer()):
        return None
    array: FloatArray = shrinkc_ir.contents(tensor).astype(np.float64)
    return array if np.isfinite(array).all() else None


def _unchanged(node: ir.Node, index: int, reach: _Reach) -> _Reach | None:
    return reach


def _arithmetic(node: ir.Node, index: int, reach: _Reach) -> _Reach | None:
    if len(node.inputs) != 2 or (constant := _constant(node, 1 - index)) is None or constant.ndim > len(reach.shape):
        return None
    constant = constant.reshape((1,) * (len(reach.shape) - constant.ndim) + constant.shape)
    one, zero = np.ones_like(constant), np.zeros_like(constant)
    if node.op_type == "Add":
        return reach.changed(one, constant)
    if node.op_type == "Sub":
        return reach.changed(one, -constant) if index == 0 else reach.changed(-one, constant)
    if node.op_type == "Mul":
        return reach.changed(constant, zero)
    return reach.changed(1 / constant, zero) if index == 0 and constant.all() else None


def _transpose(node: ir.Node, index: int, reach: _Reach) -> _Reach | None:
    order = ints_of(node, "perm")
    if reach.linear is not None or not order or order[0] != 0:
        return None
    gain, offset = reach.before.gain.transpose(order), reach.before.offset.transpose(order)
    shape, axes = (tuple(old[axis] for axis in order) for old in (reach.shape, reach.axes))
    return replace(reach, shape=shape, axes=axes, pads=tuple(reach.pads[axis] for axis in order), before=Affine(gain, offset))


def _pad(node: ir.Node, index: int, reach: _Reach) -> _Reach | None:
    stored = ints_of(node, "pads") or _constant(node, 1)
    filled = _constant(node, 2)
    is_constant = string_of(node, "mode", "constant") == "constant" and input_at(node, 3) is None
    if reach.linear is not None or index or stored is None or not is_constant or (filled is not None and filled.any()):
        return None
    rank = len(reach.shape)
    added = np.asarray(stored, np.int64).reshape(2, -1)
    if added.shape[1] != rank or (added < 0).any():
        return None
    pads = tuple((begin + int(a), end + int(b)) for (begin, end), a, b in zip(reach.pads, *added, strict=True))
    return replace(reach, pads=pads)


def _convolution(node: ir.Node, index: int, reach: _Reach) -> _Reach | None:
    kernel = _constant(node, 1)
    bias = np.zeros(1) if input_at(node, 2) is None else _constant(node, 2)
    if index or reach.linear is not None or kernel is None or bias is None or any(map(any, reach.pads[:2])):
        return None
    n_axes = kernel.ndim - 2
    dense = _ungrouped(kernel, int_of(node, "group", 1))
    strides, dilations = (ints_of(node, name) or [1] * n_axes for name in ("strides", "dilations"))
    windows = []
    for axis in range(n_axes):
        size, taps = reach.shape[2 + axis], kernel.shape[2 + axis]
        begin, end = _padding(node, axis, n_axes, size + sum(reach.pads[2 + axis]), taps, strides[axis], dilations[axis])
        outer = reach.pads[2 + axis]
        windows.append(Window(size, taps, strides[axis], dilations[axis], begin + outer[0], end + outer[1]))
    return _behind(reach, Linear(dense, tuple(windows)), bias)


def _ungrouped(kernel: FloatArray, groups: int) -> FloatArray:
    """Kernel that reads all channels, zero where its group does not."""
    if groups == 1:
        return kernel
    outputs, inside = len(kernel) // groups, kernel.shape[1]
    dense = np.zeros((len(kernel), inside * groups, *kernel.shape[2:]))
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        dense[rows, group * inside : (group + 1) * inside] = kernel[rows]
    return dense


def _padding(node: ir.Node, axis: int, n_axes: int, size: int, taps: int, stride: int, dilation: int) -> tuple[int, int]:
    automatic = string_of(node, "auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        total = max(0, (-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        return (less, more) if automatic == "SAME_UPPER" else (more, less)
    pads = ints_of(node, "pads") or [0] * 2 * n_axes
    return (0, 0) if automatic == "VALID" else (pads[axis], pads[axis + n_axes])


def _gemm(node: ir.Node, index: int, reach: _Reach) -> _Reach | None:
    weight = _constant(node, 1)
    bias = np.zeros(1) if input_at(node, 2) is None else _constant(node, 2)
    if index or weight is None or bias is None or bias.size not in (1, bias.shape[-1]) or int_of(node, "transA", 0):
        return None
    alpha, beta = (float(node.attributes[name].value) if name in node.attributes else 1.0 for name in ("alpha", "beta"))
    return _product(reach, alpha * (weight if int_of(node, "transB", 0) else weight.T), beta * bias)


def _matmul(node: ir.Node, index: int, reach: _Reach) -> _Reach | None:
    weight = _constant(node, 1)
    return None if index or weight is None or weight.ndim != 2 else _product(reach, weight.T, np.zeros(1))


def _product(reach: _Reach, kernel: FloatArray, bias: FloatArray) -> _Reach | None:
    if reach.linear is not None or len(reach.shape) != 2 or any(map(any, reach.pads)):
        return None
    return _behind(reach, Linear(kernel, ()), bias)


def _behind(reach: _Reach, linear: Linear, bias: FloatArray) -> _Reach:
    rank = len(reach.shape)
    return replace(reach, linear=linear, after=Affine(np.ones((1,) * rank), bias.reshape(1, -1, *(1,) * (rank - 2))))


STEPS: dict[str, Callable[[ir.Node, int, _Reach], _Reach | None]] = {
    "Add": _arithmetic,
    "Cast": _unchanged,
    "Conv": _convolution,
    "Div": _arithmetic,
    "Gemm": _gemm,
    "Identity": _unchanged,
    "MatMul": _matmul,
    "Mul": _arithmetic,
    "Pad": _pad,
    "Sub": _arithmetic,
    "Transpose": _transpose,
}
"""How a node carries the walk on; others end it."""
