"""Convolutions, and their transposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table
from shrinkc.training.ops.windows import Windows, for_torch, is_symmetric

op = Table()
OPS = op.ops

PLAIN: dict[int, Any] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
WIDE = 4
"""Channels of a group from which on bfloat16 is fast."""
TRANSPOSED: dict[int, Any] = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


@op("Conv")
def conv(call: Call) -> Function:
    """Convolution of one to three spatial axes, grouped, dilated, padded on each side by its own amount."""
    group = call.integer("group", 1)
    if call.has("kernel_shape") and call.text("auto_pad", "NOTSET") == "NOTSET":
        windows = Windows.of(call)
        assert windows.pads is not None
        return _fixed(windows, windows.pads, group)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        windows = Windows.of(call, w.shape[2:])
        return convolved(x, w, b, windows, windows.paddings(x.shape[2:]), group)

    return run


def _fixed(windows: Windows, pads: Sequence[int], group: int) -> Function:
    stride, dilation, before = windows.strides, windows.dilations, tuple(pads[: len(windows.kernel)])
    rank = len(windows.kernel) + 2
    if rank not in PLAIN or not is_symmetric(pads):
        return lambda x, w, b=None: convolved(x, w, b, windows, pads, group)
    function = PLAIN[rank] if group == 1 else grouped
    return lambda x, w, b=None: function(x, w, b, stride, before, dilation, group)


def convolved(x: Tensor, w: Tensor, b: Tensor | None, windows: Windows, pads: Sequence[int], group: int) -> Tensor:
    """Convolution with any paddings; negative ones cut."""
    if is_symmetric(pads) and min(pads, default=0) >= 0:
        before = tuple(pads[: len(pads) // 2])
    else:
        x, before = F.pad(x, for_torch(pads)), (0,) * (len(pads) // 2)
    if w.dim() not in PLAIN:
        raise NotImplementedError(f"a convolution over {w.dim() - 2} axes")
    function = PLAIN[w.dim()] if group == 1 else grouped
    result: Tensor = function(x, w, b, windows.strides, before, windows.dilations, group)
    return result


def grouped(
    x: Tensor, w: Tensor, b: Tensor | None, stride: Sequence[int], pads: Sequence[int], dilation: Sequence[int], group: int
) -> Tensor:
    """Convolution in groups, in float32 where a processor's bfloat16 has no fast gradient.

    Torch 2.13 takes 99 ms for that of 64 channels of 28 by 28, each by itself, three by three, at every second place, in
    batches of 128: in float32 it is 8.
    """
    function = PLAIN[w.dim()]
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or _is_fast_in_bfloat16(w, stride):
        made: Tensor = function(x, w, b, stride, pads, dilation, group)
        return made
    with torch.autocast("cpu", enabled=False):
        made = function(x.to(w.dtype), w, b, stride, pads, dilation, group)
    return made.to(torch.get_autocast_dtype("cpu"))


def _is_fast_in_bfloat16(w: Tensor, stride: Sequence[int]) -> bool:
    """Groups of several channels, and three by three at every place."""
    return w.shape[1] >= WIDE or (tuple(w.shape[2:]) == (3, 3) and set(stride) == {1})


@op("ConvTranspose")
def conv_transpose(call: Call) -> Function:
    """Transposed convolution: made without paddings, then cut or extended to the size that is asked for."""
    group = call.integer("group", 1)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        windows = Windows.of(call, w.shape[2:])
        pads, extra = _of_transpose(call, windows, x.shape[2:])
        n = len(windows.kernel)
        fits = all(e < max(s, d) for e, s, d in zip(extra, windows.strides, windows.dilations, strict=True))
        if fits and is_symmetric(pads) and min(pads, default=0) >= 0:
            made: Tensor = TRANSPOSED[w.dim()](x, w, b, windows.strides, pads[:n], extra, group, windows.dilations)
            return made
        full = TRANSPOSED[w.dim()](x, w, None, windows.strides, 0, 0, group, windows.dilations)
        cut = [-p for p in pads[:n]] + [e - p for e, p in zip(extra, pads[n:], strict=True)]
        result = F.pad(full, for_torch(cut))
        return result if b is None else result + b.reshape(-1, *(1,) * n)

    return run


def _of_transpose(call: Call, windows: Windows, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Paddings to cut off (befores, afters) and sizes to add at the end."""
    n = len(windows.kernel)
    extra, wanted = call.integers("output_padding") or [0] * n, call.integers("output_shape")
    if wanted is None and windows.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * stride for size, stride in zip(sizes, windows.strides, strict=True)]
    if wanted is None:
        assert windows.pads is not None
        return list(windows.pads), extra
    full = [s * (i - 1) + e + k for s, i, e, k in zip(windows.strides, sizes, extra, windows.spans, strict=True)]
    total = [have - want for have, want in zip(full, wanted[-n:], strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    befores, afters = (small, large) if windows.auto_pad == "SAME_UPPER" else (large, small)
    return [*befores, *afters], extra


@op("CausalConvWithState")
def causal_conv(call: Call) -> Function:
    """Depthwise convolution that looks back only; what precedes the input comes from a state, or is zero."""
    activation = call.text("activation", "none")

    def run(x: Tensor, w: Tensor, b: Tensor | None = None, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        width = w.shape[-1] - 1
        before = x.new_zeros(*x.shape[:-1], width) if past is None else past
        whole = torch.cat([before, x], -1)
        y = F.conv1d(whole, w, b, groups=x.shape[1])
        present = whole[..., whole.shape[-1] - width :]
        return (F.silu(y) if activation in ("silu", "swish") else y), present

    return run
