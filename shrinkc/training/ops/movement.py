"""Data movement and shapes: nothing is computed, things are laid out anew."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table, read_ints
from shrinkc.training.ops.elementwise import converted

op = Table()
OPS = op.ops


@op("Constant")
def constant(call: Call) -> Function:
    """A stored value."""
    value = _stored(call)
    return lambda: value


def _stored(call: Call) -> Tensor:
    tensor = call.tensor("value")
    if tensor is not None:
        return tensor
    if call.has("value_float"):
        return torch.tensor(call.number("value_float"), dtype=torch.float32)
    if call.has("value_floats"):
        return torch.tensor(call.numbers("value_floats"), dtype=torch.float32)
    if call.has("value_int"):
        return torch.tensor(call.integer("value_int"), dtype=torch.int64)
    if call.has("value_ints"):
        return torch.tensor(call.integers("value_ints"), dtype=torch.int64)
    raise NotImplementedError("a Constant that is text or sparse")


@op("ConstantOfShape")
def constant_of_shape(call: Call) -> Function:
    """A shape filled with one value, zero if none is given."""
    value, read = call.tensor("value"), call.reader(0)
    value = torch.zeros(1) if value is None else value
    dtype, fill = value.dtype, value.reshape(-1)[0].item()
    return lambda shape: torch.full(read(shape) or [], fill, dtype=dtype, device=shape.device)


@op("Shape")
def shape_of(call: Call) -> Function:
    """Sizes, or those from ``start`` to ``end``; on the CPU always."""
    start = call.integer("start")
    end = call.integer("end") if call.has("end") else None
    return lambda x: torch.tensor(tuple(x.shape)[_bounded(start, x.dim()) : _end(end, x.dim())], dtype=torch.int64)


def _bounded(index: int, rank: int) -> int:
    return min(max(index + rank if index < 0 else index, 0), rank)


def _end(end: int | None, rank: int) -> int:
    return rank if end is None else _bounded(end, rank)


@op("Size")
def size_of(call: Call) -> Function:
    """Number of elements; on the CPU always."""
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)


@op("Reshape")
def reshape(call: Call) -> Function:
    """Zero copies a size unless ``allowzero``; -1 is worked out."""
    read, zero_is_zero = call.reader(1), bool(call.integer("allowzero"))

    def run(x: Tensor, shape: Tensor) -> Tensor:
        sizes = read(shape) or []
        if not zero_is_zero and 0 in sizes:
            sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        return x.reshape(sizes)

    return run


@op("Flatten")
def flatten(call: Call) -> Function:
    """Two axes of any number."""
    axis = call.integer("axis", 1)
    if axis == 1:
        return lambda x: x.flatten(1) if x.dim() > 1 and x.numel() else x.reshape(x.shape[0], prod(x.shape[1:]))
    return lambda x: x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@op("Transpose")
def transpose(call: Call) -> Function:
    """Axes in another order; reversed if none is given."""
    order = call.integers("perm")
    return lambda x: x.permute(order if order is not None else list(range(x.dim()))[::-1])


@op("Squeeze")
def squeeze(call: Call) -> Function:
    """Drop axes of size one: those named, or all."""
    read = call.axes(1)

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = read(given)
        return x.squeeze() if axes is None else x.squeeze(tuple(axes))

    return run


@op("Unsqueeze")
def unsqueeze(call: Call) -> Function:
    """New axes of size one, at positions of the result."""
    read = call.axes(1)

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = read(given) or []
        rank = x.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return run


@op("Concat")
def concat(call: Call) -> Function:
    """Side by side along an axis."""
    axis = call.integer("axis")
    return lambda *inputs: torch.cat(inputs, axis)


@op("Split")
def split(call: Call) -> Function:
    """Parts of given sizes, or of equal ones, the last perhaps smaller."""
    axis, read, n_outputs = call.integer("axis"), call.axes(1, "split"), call.n_outputs

    def run(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
        sizes = read(given)
        return torch.split(x, sizes if sizes is not None else equal_parts(x.shape[axis], n_outputs), axis)

    return run


def equal_parts(total: int, count: int) -> list[int]:
    """Sizes of ``count`` parts: all of one size but the last, which may be smaller."""
    size = -(-total // count)
    return [max(0, min(size, total - i * size)) for i in range(count)]


@op("Slice", since=1)
def slice_by_attributes(call: Call) -> Function:
    """Bounds as attributes (before opset 10)."""
    starts, ends = call.integers("starts") or [], call.integers("ends") or []
    axes = call.integers("axes")
    return lambda x: sliced(x, starts, ends, axes, None)


@op("Slice", since=10)
def slice_by_inputs(call: Call) -> Function:
    """Bounds, axes and steps as inputs."""
    starts, ends, axes, steps = (call.reader(index) for index in range(1, 5))

    def run(x: Tensor, s: Tensor, e: Tensor, a: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        return sliced(x, starts(s) or [], ends(e) or [], axes(a), steps(t))

    return run


def sliced(
    x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None, steps: Sequence[int] | None
) -> Tensor:
    """Slices along axes; a negative step goes backwards, bounds are cut to what there is."""
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = i if axes is None else axes[i] % x.dim()
        step = 1 if steps is None else steps[i]
        size = x.shape[axis]
        first, last, step = slice(max(start, -size), _open_end(end, step, size), step).indices(size)
        if step > 0:
            key = (slice(None),) * axis + (slice(first, max(first, last), step),)
            x = x[key]
        else:
            positions = torch.arange(first, last, step, device=x.device) if first > last else torch.arange(0, device=x.device)
            x = torch.index_select(x, axis, positions)
    return x


def _open_end(end: int, step: int, size: int) -> int | None:
    """Backwards, an end before the first element means: down to and with the first."""
    return None if step < 0 and end < -size else end


@op("Expand")
def expand(call: Call) -> Function:
    """Broadcast to a shape, in both directions."""
    read = call.reader(1)

    def run(x: Tensor, shape: Tensor) -> Tensor:
        return x.expand(broadcast(x.shape, read(shape) or []))

    return run


def broadcast(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """Shape of two shapes together."""
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b), strict=True)
    return [q if p == 1 else p for p, q in pairs]


@op("Tile")
def tile(call: Call) -> Function:
    """Repeat along every axis."""
    read = call.reader(1)
    return lambda x, repeats: x.repeat(read(repeats) or [])


@op("Range")
def arange(call: Call) -> Function:
    """From start, before limit, by delta; empty if the limit lies behind the start."""

    def run(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        first, last, step = start.item(), limit.item(), delta.item()
        last = max(first, last) if step > 0 else min(first, last)
        return torch.arange(first, last, step, dtype=start.dtype, device=start.device)

    return run


@op("EyeLike")
def eye_like(call: Call) -> Function:
    """Ones on a diagonal."""
    dtype, offset = call.dtype("dtype"), call.integer("k")

    def run(x: Tensor) -> Tensor:
        rows, columns = x.shape
        ones = torch.ones(rows, columns, dtype=torch.int64, device=x.device)
        diagonal = torch.triu(torch.tril(ones, offset), offset)
        return diagonal.to(dtype or x.dtype)

    return run


@op("Trilu")
def triangle(call: Call) -> Function:
    """Upper or lower triangle."""
    keep = torch.triu if call.integer("upper", 1) else torch.tril
    read = call.reader(1)
    return lambda x, k=None: keep(x, (read(k) or [0])[0])


@op("DepthToSpace")
def depth_to_space(call: Call) -> Function:
    """Channels to pixels."""
    size, mode = call.integer("blocksize"), call.text("mode", "DCR")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if mode == "CRD":
            return F.pixel_shuffle(x, size)
        y = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return y.reshape(n, c // size**2, h * size, w * size)

    return run


@op("SpaceToDepth")
def space_to_depth(call: Call) -> Function:
    """Pixels to channels."""
    size, mode = call.integer("blocksize"), call.text("mode", "DCR")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // size, size, w // size, size)
        y = y.permute(0, 1, 3, 5, 2, 4) if mode == "CRD" else y.permute(0, 3, 5, 1, 2, 4)
        return y.reshape(n, c * size**2, h // size, w // size)

    return run


@op("Pad", since=1)
def pad_by_attributes(call: Call) -> Function:
    """Amounts as attributes (before opset 11)."""
    mode, pads, value = call.text("mode", "constant"), call.integers("pads") or [], call.number("value")
    return lambda x: padded(x, pads, mode, value)


@op("Pad", since=11)
def pad_by_inputs(call: Call) -> Function:
    """Amounts, value and axes as inputs."""
    mode, read, axes = call.text("mode", "constant"), call.reader(1), call.reader(3)
    known = call.constant(2)
    fixed = known.item() if known is not None and known.numel() else (0 if not call.given(2) else None)

    def run(x: Tensor, pads: Tensor, value: Tensor | None = None, where: Tensor | None = None) -> Tensor:
        amounts = _on_every_axis(read(pads) or [], axes(where), x.dim())
        fill = fixed if fixed is not None else (value.item() if value is not None and value.numel() else 0)
        return padded(x, amounts, mode, fill)

    return run


def _on_every_axis(pads: Sequence[int], axes: Sequence[int] | None, rank: int) -> list[int]:
    if axes is None:
        return list(pads)
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis % rank], full[axis % rank + rank] = pads[i], pads[i + len(axes)]
    return full


MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def padded(x: Tensor, pads: Sequence[int], mode: str, value: float) -> Tensor:
    """``x`` with ``pads`` (all befores, then all afters) around it; negative ones cut, before anything is added."""
    rank = x.dim()
    if mode == "constant":
        pairs = [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[axis + rank])]
        if x.dtype == torch.bool:
            return converted(F.pad(x.to(torch.uint8), pairs, value=int(value)), torch.bool)
        return F.pad(x, pairs, value=value)
    for axis in range(rank):
        before, after = pads[axis], pads[axis + rank]
        if before or after:
            x = x.narrow(axis, max(0, -before), x.shape[axis] + min(0, before) + min(0, after))
            x = torch.index_select(x, axis, _source_positions(x.shape[axis], max(0, before), max(0, after), mode).to(x.device))
    return x


def _source_positions(size: int, before: int, after: int, mode: str) -> Tensor:
    positions = torch.arange(-before, size + after)
    if mode == "edge":
        return positions.clamp(0, size - 1)
    if mode == "wrap":
        return positions % size
    period = max(1, 2 * (size - 1))
    folded = positions % period
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(positions)


@op("CenterCropPad")
def center_crop_pad(call: Call) -> Function:
    """Cut or pad around the centre to given sizes."""
    read, axes = call.reader(1), call.integers("axes")

    def run(x: Tensor, shape: Tensor) -> Tensor:
        sizes = read(shape) or []
        for axis, size in zip(axes if axes is not None else range(x.dim()), sizes, strict=True):
            x = _centred(x, axis % x.dim(), size)
        return x

    return run


def _centred(x: Tensor, axis: int, size: int) -> Tensor:
    have = x.shape[axis]
    if have >= size:
        return x.narrow(axis, (have - size) // 2, size)
    before = (size - have) // 2
    pads = [0] * (2 * x.dim())
    pads[axis], pads[axis + x.dim()] = before, size - have - before
    return padded(x, pads, "constant", 0)


@op("ReverseSequence")
def reverse_sequence(call: Call) -> Function:
    """The first so many steps of every sample, backwards."""
    time, batch = call.integer("time_axis", 0), call.integer("batch_axis", 1)

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        y = x.movedim((batch, time), (0, 1))
        steps = torch.arange(y.shape[1], device=x.device)[None]
        ends = lengths.to(x.device)[:, None]
        order = torch.where(steps < ends, ends - 1 - steps, steps)
        index = order.reshape(order.shape + (1,) * (y.dim() - 2)).expand(y.shape)
        return torch.gather(y, 1, index).movedim((0, 1), (batch, time))

    return run


@op("Col2Im")
def col2im(call: Call) -> Function:
    """Blocks added up into an image of any number of axes."""
    dilations, pads, strides = call.integers("dilations"), call.integers("pads"), call.integers("strides")

    def run(x: Tensor, image: Tensor, block: Tensor) -> Tensor:
        size, kernel = read_ints(image) or [], read_ints(block) or []
        n = len(size)
        return columns_to_image(x, size, kernel, dilations or [1] * n, pads or [0] * (2 * n), strides or [1] * n)

    return run


def columns_to_image(
    x: Tensor, size: Sequence[int], kernel: Sequence[int], dilations: Sequence[int], pads: Sequence[int], strides: Sequence[int]
) -> Tensor:
    """Overlapping blocks ``x`` of shape (N, C * block, blocks) summed where they overlap."""
    n = len(size)
    full = [size[i] + pads[i] + pads[i + n] for i in range(n)]
    steps = [(full[i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(n)]
    flat = torch.zeros(1, dtype=torch.int64)
    for i in range(n):
        axis = torch.arange(kernel[i])[:, None] * dilations[i] + torch.arange(steps[i])[None] * strides[i]
        flat = flat[..., None, None] * full[i] + axis.reshape((1,) * (flat.dim()) + tuple(axis.shape))
    order = [1 + 2 * i for i in range(n)] + [2 + 2 * i for i in range(n)]
    index = flat.permute(0, *order).reshape(-1).to(x.device)
    channels = x.shape[1] // prod(kernel)
    values = x.reshape(x.shape[0], channels, -1)
    image = torch.zeros(x.shape[0], channels, prod(full), dtype=x.dtype, device=x.device).index_add(2, index, values)
    image = image.reshape(x.shape[0], channels, *full)
    return image[(slice(None), slice(None), *(slice(pads[i], full[i] - pads[i + n]) for i in range(n)))]
