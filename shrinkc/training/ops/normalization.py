"""Normalisations, softmaxes and dropout."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops


@op("BatchNormalization")
def batch_norm(call: Call) -> Function:
    """Running statistics, or those of the batch in training.

    ONNX keeps ``momentum`` of the old statistics, torch replaces that share: torch's momentum is one minus ONNX's.  While the
    executor trains, stored statistics follow torch's rule (unbiased variance).  A node of ``training_mode`` 1 uses those of the
    batch always, and returns running statistics by ONNX's rule (population variance).
    """
    epsilon, momentum = call.number("epsilon", 1e-5), call.number("momentum", 0.9)
    if call.integer("training_mode"):
        return lambda x, s, b, mean, var: _by_batch(x, s, b, mean, var, epsilon, momentum)
    mode, share = call.mode, 1 - momentum

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        if mean.requires_grad or var.requires_grad or x.dim() == 1:  # statistics that are computed; torch's has no gradient
            column = (1, -1, *(1,) * (x.dim() - 2)) if x.dim() > 1 else (-1,)
            inverse = torch.rsqrt(var + epsilon)
            return (x - mean.reshape(column)) * (scale * inverse).reshape(column) + bias.reshape(column)
        if mode.normalizes and mode.normalize is not None:
            return mode.normalize(x, mean, var, scale, bias, share, epsilon)
        return F.batch_norm(x, mean, var, scale, bias, mode.normalizes, share, epsilon)

    return run


def _by_batch(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, epsilon: float, momentum: float
) -> tuple[Tensor, Tensor, Tensor]:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    of_batch, spread = x.mean(axes), x.var(axes, unbiased=False)
    y = F.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
    keep = 1 - momentum
    return y, mean * momentum + of_batch * keep, var * momentum + spread * keep


@op("InstanceNormalization")
def instance_norm(call: Call) -> Function:
    """Every plane by its own mean and variance; one of a single element is its bias, which ``F.instance_norm`` refuses."""
    epsilon = call.number("epsilon", 1e-5)
    return lambda x, s, b: torch.instance_norm(x, s, b, None, None, True, 0.0, epsilon, torch.backends.cudnn.enabled)


@op("LayerNormalization")
def layer_norm(call: Call) -> Function:
    """Over the axes from ``axis`` on; mean and inverse deviation too, if asked for."""
    axis, epsilon, wants_statistics = call.integer("axis", -1), call.number("epsilon", 1e-5), call.n_outputs > 1

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        shape = x.shape[axis:]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            y = F.layer_norm(x, shape, scale, bias, epsilon)
        else:
            y = F.layer_norm(x, shape, None, None, epsilon) * scale
            y = y if bias is None else y + bias
        return (y, *_statistics(x, axis, epsilon)) if wants_statistics else y

    return run


def _statistics(x: Tensor, axis: int, epsilon: float) -> tuple[Tensor, Tensor]:
    axes = list(range(axis % x.dim(), x.dim()))
    var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return mean, torch.rsqrt(var + epsilon)


@op("RMSNormalization")
def rms_norm(call: Call) -> Function:
    """By the root of the mean square over the axes from ``axis`` on."""
    axis, epsilon = call.integer("axis", -1), call.number("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor) -> Tensor:
        shape = x.shape[axis:]
        if scale.shape == shape:
            return F.rms_norm(x, shape, scale, epsilon)
        return F.rms_norm(x, shape, None, epsilon) * scale

    return run


@op("GroupNormalization", since=18)
def group_norm_by_groups(call: Call) -> Function:
    """Scale and bias of one entry a group (opsets 18 to 20)."""
    groups, epsilon = call.integer("num_groups"), call.number("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        repeat = x.shape[1] // scale.shape[0]
        return torch.group_norm(x, groups, scale.repeat_interleave(repeat), bias.repeat_interleave(repeat), epsilon)

    return run


@op("GroupNormalization", since=21)
def group_norm(call: Call) -> Function:
    """Scale and bias of one entry a channel."""
    groups, epsilon = call.integer("num_groups"), call.number("epsilon", 1e-5)
    return lambda x, scale, bias: torch.group_norm(x, groups, scale, bias, epsilon)


@op("MeanVarianceNormalization")
def mean_variance(call: Call) -> Function:
    """(x - mean) / (deviation + 1e-9) over axes."""
    axes = call.integers("axes") or [0, 2, 3]

    def run(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)

    return run


@op("LpNormalization")
def lp_norm(call: Call) -> Function:
    """By the p-norm along an axis; zero stays zero."""
    axis, p = call.integer("axis", -1), call.integer("p", 2)

    def run(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return x / torch.where(norm == 0, torch.ones_like(norm), norm)

    return run


@op("LRN")
def local_response(call: Call) -> Function:
    """By the squares of neighbouring channels."""
    size, alpha, beta = call.integer("size"), call.number("alpha", 1e-4), call.number("beta", 0.75)
    bias = call.number("bias", 1.0)

    def run(x: Tensor) -> Tensor:
        before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
        squares = F.pad(x.square().flatten(2), (0, 0, before, after))
        total = squares.unfold(1, size, 1).sum(-1).reshape(x.shape)
        return x / (bias + alpha / size * total) ** beta

    return run


def _softmax(call: Call, function: Function) -> Function:
    if call.version >= 13:
        axis = call.integer("axis", -1)
        return lambda x: function(x, axis)
    first = call.integer("axis", 1)  # before opset 13 all axes from here on are one

    def run(x: Tensor) -> Tensor:
        flat = x.reshape(prod(x.shape[:first]), prod(x.shape[first:]))
        result: Tensor = function(flat, -1).reshape(x.shape)
        return result

    return run


@op("Softmax")
def softmax(call: Call) -> Function:
    """Exponentials that sum to one."""
    return _softmax(call, torch.softmax)


@op("LogSoftmax")
def log_softmax(call: Call) -> Function:
    """Logarithm of the softmax."""
    return _softmax(call, torch.log_softmax)


@op("Hardmax")
def hardmax(call: Call) -> Function:
    """One at the first largest, else zero."""

    def function(x: Tensor, axis: int) -> Tensor:
        is_largest = (x == x.amax(axis, keepdim=True)).to(torch.uint8)
        return torch.zeros_like(x).scatter(axis, is_largest.argmax(axis, keepdim=True), 1)

    return _softmax(call, function)


@op("Dropout")
def dropout(call: Call) -> Function:
    """Nothing, unless the executor trains, or the node says itself that it does (opset 12 on).

    What was kept is told in truth values, before opset 10 in the type of the data.
    """
    known, are_truths = call.constant(1), call.version >= 10
    fixed = float(known) if known is not None else call.number("ratio", 0.5)
    mode, wants_mask = call.mode, call.has_output(1)
    trains_always = call.constant(2) is not None and bool(call.constant(2))

    def run(x: Tensor, ratio: Tensor | None = None, trains: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        share = float(ratio) if ratio is not None and known is None else fixed
        is_active = mode.drops or trains_always or (trains is not None and bool(trains))
        if not is_active or share == 0:
            return (x, torch.ones_like(x, dtype=torch.bool if are_truths else x.dtype)) if wants_mask else x
        mask = mode.drawn(x, lambda empty: empty.uniform_(), torch.float32) >= share
        kept = x * (mask.to(x.dtype) / (1 - share)) if share < 1 else torch.zeros_like(x)
        return (kept, mask if are_truths else mask.to(x.dtype)) if wants_mask else kept

    return run
