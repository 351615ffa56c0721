"""What exporters make of constants and sizes, one small model each.  Shapes of values are declared, as exporters do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from models.attention_topologies import DIM, HEADS, LENGTH, finish, linear, merge_heads, split_heads, start, weighted
from models.builder import INT64, Net

EXPORTED: dict[str, Callable[[], Net]] = {}


def exported(function: Callable[[], Net]) -> Callable[[], Net]:
    EXPORTED[function.__name__] = function
    return function


def declared(net: Net) -> onnx.ModelProto:
    """The model with the shape of every value declared; rows are the batch, another axis of unknown size gets a name."""
    model = onnx.shape_inference.infer_shapes(net.model())
    for value in model.graph.value_info:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 2 and not dims[0].dim_value:
            dims[0].dim_param = "batch"
    return model


def parts_of(net: Net, *shape: int, count: int = 3) -> list[str]:
    """A stored tensor, split along its first axis."""
    return list(net.op("Split", net.weight(count * shape[0], *shape[1:]), net.ints(*[shape[0]] * count), outputs=count, axis=0))


def projected(net: Net, x: str, weight: str, bias: str) -> str:
    product = net.op("MatMul", x, net.op("Transpose", weight, perm=[1, 0]))
    return split_heads(net, net.op("Add", product, bias))


@exported
def projections_split_from_one_weight() -> Net:
    net, x = start()
    rows = zip(parts_of(net, DIM, DIM), parts_of(net, DIM), strict=True)
    q, k, v = (projected(net, x, *row) for row in rows)
    return finish(net, linear(net, merge_heads(net, weighted(net, q, k, v)), DIM, DIM))


@exported
def one_projection_reads_what_has_no_channels() -> Net:
    """The queries come from an input: no column of the stored weight can go, though keys and values could spare some."""
    net, x = start()
    query = net.input("query", ["batch", LENGTH, DIM])
    rows = zip(parts_of(net, DIM, DIM), parts_of(net, DIM), strict=True)
    q, k, v = (projected(net, source, *row) for source, row in zip((query, x, x), rows, strict=True))
    return finish(net, linear(net, merge_heads(net, weighted(net, q, k, v)), DIM, DIM))


@exported
def flattened_to_a_stored_size() -> Net:
    net = Net()
    x = net.cbr(net.input("x", ["batch", 3, 4, 4]), 3, 8)
    flat = net.op("Reshape", x, net.ints(-1, 128))
    net.output(net.op("Gemm", flat, net.weight(5, 128), net.vector(5), transB=1))
    return net


@exported
def heads_and_batch_on_one_axis() -> Net:
    net, x = start()
    x = net.op("Transpose", x, perm=[1, 0, 2])
    q, k, v = (
        net.op("Transpose", net.op("Reshape", linear(net, x, DIM, DIM), net.ints(LENGTH, -1, 4)), perm=[1, 0, 2])
        for _ in range(3)
    )
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    y = net.op("Transpose", net.op("MatMul", scores, v), perm=[1, 0, 2])
    y = linear(net, net.op("Reshape", y, net.ints(LENGTH, -1, DIM)), DIM, DIM)
    return finish(net, net.op("Transpose", y, perm=[1, 0, 2]))


def turned(net: Net, x: str, cosine: str, sine: str) -> str:
    first, second = (net.op("Slice", x, net.ints(a), net.ints(b), net.ints(3)) for a, b in ((0, 2), (2, 4)))
    crossed = net.op("Concat", net.op("Neg", second), first, axis=3)
    return str(net.op("Add", net.op("Mul", x, cosine), net.op("Mul", crossed, sine)))


def rotary(frequencies: np.ndarray) -> Net:
    """Rotary positions for as many steps as the input has, made by the graph."""
    net = Net()
    x = net.op("Gather", net.weight(64, DIM), net.input("tokens", ["batch", "length"], INT64))
    length = net.op("Gather", net.op("Shape", x), net.const(np.int64(1)))
    steps = net.op("Cast", net.op("Range", net.const(np.int64(0)), length, net.const(np.int64(1))), to=1)
    angles = net.op("Mul", net.op("Unsqueeze", steps, net.ints(1)), net.const(frequencies))
    angles = net.op("Concat", angles, angles, axis=1)
    sizes = net.op("Concat", net.ints(0), net.op("Unsqueeze", length, net.ints(0)), net.ints(HEADS, 4), axis=0)
    q, k, v = (
        net.op("Transpose", net.op("Reshape", linear(net, x, DIM, DIM, bias=False), sizes), perm=[0, 2, 1, 3]) for _ in range(3)
    )
    q, k = (turned(net, y, net.op("Cos", angles), net.op("Sin", angles)) for y in (q, k))
    y = net.op("Transpose", weighted(net, q, k, v), perm=[0, 2, 1, 3])
    merged = net.op("Concat", net.ints(0), net.op("Unsqueeze", length, net.ints(0)), net.ints(DIM), axis=0)
    return finish(net, linear(net, net.op("Reshape", y, merged), DIM, DIM))


@exported
def computed_rotary_positions() -> Net:
    return rotary(np.asarray([[1.0, 0.1]], np.float32))


@exported
def computed_rotary_positions_of_known_value() -> Net:
    return rotary(np.asarray([1.0, 0.1], np.float32))


@exported
def biases_of_heads_from_a_product_of_stored_matrices() -> Net:
    net, x = start()
    table = net.op("MatMul", net.op("Relu", net.op("MatMul", net.weight(9, 2), net.weight(2, 8))), net.weight(8, HEADS))
    chosen = net.op("Gather", table, net.const(np.arange(LENGTH * LENGTH) % 9))
    bias = net.op("Transpose", net.op("Reshape", chosen, net.ints(LENGTH, LENGTH, HEADS)), perm=[2, 0, 1])
    q, k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(3))
    y = weighted(net, q, k, v, bias=net.op("Sigmoid", net.op("Unsqueeze", bias, net.ints(0))))
    return finish(net, linear(net, merge_heads(net, y), DIM, DIM))


@exported
def queries_that_start_as_zeros() -> Net:
    """Zeros in the shape of something, to which the first branch is added: they lose the channels that it loses."""
    net, x = start()
    zeros = net.op("Expand", net.const(np.float32(0)), net.op("Shape", x))
    filled = net.op("ConstantOfShape", net.op("Shape", x))
    y = net.op("Add", zeros, linear(net, net.op("Add", filled, x), DIM, DIM))
    return finish(net, net.op("Add", linear(net, zeros, DIM, DIM), y))
