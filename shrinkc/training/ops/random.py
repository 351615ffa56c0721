"""Random numbers: drawn by torch, so seeds and values are torch's; a node's own seed makes it draw the same every time."""

from __future__ import annotations

import torch
from torch import Tensor

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops


def _generator(call: Call, device: torch.device) -> torch.Generator | None:
    if not call.has("seed"):
        return None
    return torch.Generator(device).manual_seed(int(call.number("seed")))


@op("RandomNormal", "RandomUniform")
def drawn(call: Call) -> Function:
    """Of a shape that the node gives."""
    shape, dtype = call.integers("shape") or [], call.dtype("dtype") or torch.float32
    return lambda: _draw(call, torch.empty(shape, dtype=dtype))


@op("RandomNormalLike", "RandomUniformLike")
def drawn_like(call: Call) -> Function:
    """Of the shape of a tensor."""
    dtype = call.dtype("dtype")
    return lambda x: call.mode.drawn(x, lambda empty: _draw(call, empty), dtype)


def _draw(call: Call, empty: Tensor) -> Tensor:
    generator = _generator(call, empty.device)
    if call.node.op_type.startswith("RandomNormal"):
        return empty.normal_(call.number("mean"), call.number("scale", 1.0), generator=generator)
    return empty.uniform_(call.number("low"), call.number("high", 1.0), generator=generator)


@op("Bernoulli")
def bernoulli(call: Call) -> Function:
    """Ones with the probabilities given."""
    dtype = call.dtype("dtype")
    return lambda x: torch.bernoulli(x, generator=_generator(call, x.device)).to(dtype or x.dtype)


@op("Multinomial")
def multinomial(call: Call) -> Function:
    """Classes drawn by unnormalised log-probabilities."""
    size, dtype = call.integer("sample_size", 1), call.dtype("dtype") or torch.int32

    def run(x: Tensor) -> Tensor:
        weights = torch.softmax(x.float(), -1)
        return torch.multinomial(weights, size, replacement=True, generator=_generator(call, x.device)).to(dtype)

    return run
