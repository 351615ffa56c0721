"""Random instances of every operator family, random channels removed: the proof is the oracle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from models.builder import Net

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.allocate import Allocating, Limits
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import analyse
from shrinkc.shapes import input_shapes
from shrinkc.surgery import remove_channels
from shrinkc.verify import prove

PROPERTY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class Randomly:
    """An allocator that wants a random width of every group."""

    name = "random"
    needs_evidence = False

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def widths(self, problem, pressure):  # type: ignore[no-untyped-def]
        return {group.name: float(self.generator.uniform(0, group.width)) for group in problem.groups}


def prune_at_random_and_prove(net: Net, seed: int) -> None:
    """Remove random channels under random scores; the proof raises if the coupling is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(net.model(), str(path))
        model = shrinkc_ir.load(path)
    shapes = input_shapes(model)
    analysis = analyse(model, shapes, registry.operator_rules())
    assume(analysis.groups)
    generator = np.random.default_rng(seed)
    scores = {group.name: generator.random(group.width) for group in analysis.groups}
    problem = Allocating(analysis, CostModel(analysis), Randomly(generator), scores, Limits())
    allocation = problem.at(0.5)
    is_kept = analysis.keep_mask(allocation.keep)
    assume(not is_kept.all())
    pruned = remove_channels(analysis, is_kept, shapes)
    proof = prove(analysis, is_kept, pruned, shapes, registry.load("runtimes", "onnxruntime-cpu")(), seed=seed)
    assert max(trial.error for trial in proof.trials) <= 1


def opened(channels: int = 4, size: int = 9, opset: int = 17) -> tuple[Net, str]:
    net = Net(opset=opset, ir_version=8)
    return net, net.conv(net.input("x", ["n", 2, size, size]), 2, channels)


def closed(net: Net, x: str, channels: int, seed: int) -> None:
    net.output(net.head(net.relu(x), channels))
    prune_at_random_and_prove(net, seed)


SEED = st.integers(0, 2**16)


@given(
    group=st.integers(1, 4), per_in=st.integers(1, 3), per_out=st.integers(1, 3), k=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2), dilation=st.integers(1, 2), bias=st.booleans(), seed=SEED,
)  # fmt: skip
@PROPERTY
def test_convolution(group: int, per_in: int, per_out: int, k: int, stride: int, dilation: int, bias: bool, seed: int) -> None:
    net, x = opened(group * per_in)
    y = net.conv(
        x, group * per_in, group * per_out, k, group=group, bias=bias, strides=[stride] * 2, dilations=[dilation] * 2,
        pads=[1, 0, 1, 2],
    )  # fmt: skip
    closed(net, y, group * per_out, seed)


@given(group=st.integers(1, 4), per_in=st.integers(1, 3), per_out=st.integers(1, 3), stride=st.integers(1, 2), seed=SEED)
@PROPERTY
def test_transposed_convolution(group: int, per_in: int, per_out: int, stride: int, seed: int) -> None:
    net, x = opened(group * per_in)
    weight = net.weight(group * per_in, per_out, 2, 2)
    y = net.op("ConvTranspose", x, weight, net.vector(group * per_out), group=group, strides=[stride] * 2)
    closed(net, y, group * per_out, seed)


@given(
    rows=st.integers(2, 6), hidden=st.integers(2, 8), transposed=st.booleans(), bias=st.sampled_from(["none", "vector", "row"]),
    alpha=st.sampled_from([1.0, 0.5]), seed=SEED,
)  # fmt: skip
@PROPERTY
def test_matrix_products(rows: int, hidden: int, transposed: bool, bias: str, alpha: float, seed: int) -> None:
    net = Net()
    x = net.op("MatMul", net.input("x", ["n", rows]), net.weight(rows, hidden))
    weight = net.weight(hidden + 1, hidden) if transposed else net.weight(hidden, hidden + 1)
    parts = [net.relu(x), weight]
    if bias == "vector":
        parts.append(net.vector(hidden + 1))
    if bias == "row":
        parts.append(net.weight(1, hidden + 1))
    y = net.op("Gemm", *parts, transB=int(transposed), alpha=alpha)
    net.output(net.op("MatMul", net.op("Tanh", y), net.weight(hidden + 1, 3)))
    prune_at_random_and_prove(net, seed)


@given(
    kind=st.sampled_from(["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", "PRelu"]), constant=st.booleans(),
    shape=st.sampled_from(["scalar", "channel", "full", "space"]), seed=SEED,
)  # fmt: skip
@PROPERTY
def test_element_wise_operators(kind: str, constant: bool, shape: str, seed: int) -> None:
    net, x = opened(6)
    if constant or kind == "PRelu":
        dims = {"scalar": (), "channel": (6, 1, 1), "full": (1, 6, 9, 9), "space": (9, 9)}[shape]
        other = net.const(net.random.uniform(0.2, 1, dims).astype(np.float32))
    else:
        gate = net.op("GlobalAveragePool", x)
        other = {"scalar": net.conv(x, 6, 1), "channel": net.conv(gate, 6, 6, 1), "space": net.conv(x, 6, 1)}.get(
            shape, net.conv(x, 6, 6)
        )
    closed(net, net.op(kind, x, other), 6, seed)


@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4), order=st.randoms(), axis=st.sampled_from([1, -3]), seed=SEED)
@PROPERTY
def test_split_and_concat(sizes: list[int], order: object, axis: int, seed: int) -> None:
    net, x = opened(sum(sizes))
    parts = list(net.op("Split", x, net.ints(*sizes), outputs=len(sizes), axis=axis))
    pairs = list(zip(parts, sizes, strict=True))
    order.shuffle(pairs)  # type: ignore[attr-defined]
    worked = [net.conv(part, size, size) if index % 2 else part for index, (part, size) in enumerate(pairs)]
    closed(net, net.op("Concat", *worked, axis=axis), sum(sizes), seed)


@given(
    start=st.integers(-12, 12), stop=st.integers(-12, 12), step=st.integers(-3, 3).filter(bool),
    opset=st.sampled_from([9, 11, 17]), seed=SEED,
)  # fmt: skip
@PROPERTY
def test_slices_of_channels(start: int, stop: int, step: int, opset: int, seed: int) -> None:
    from shrinkc.analysis.node_moves import positions

    step = 1 if opset < 10 else step
    width = len(positions(8, start, stop, step))
    assume(width)
    net, x = opened(8, opset=opset)
    if opset < 10:
        y = net.op("Slice", x, starts=[start], ends=[stop], axes=[1])
    else:
        y = net.op("Slice", x, net.ints(start), net.ints(stop), net.ints(1), net.ints(step))
    closed(net, net.conv(y, width, 5), 5, seed)


@given(indices=st.lists(st.integers(-6, 5), min_size=1, max_size=8), seed=SEED)
@PROPERTY
def test_gathered_channels(indices: list[int], seed: int) -> None:
    net, x = opened(6)
    closed(net, net.conv(net.op("Gather", x, net.ints(*indices), axis=1), len(indices), 5), 5, seed)


@given(groups=st.integers(1, 4), per_group=st.integers(1, 4), batch=st.sampled_from([0, -1]), seed=SEED)
@PROPERTY
def test_channel_shuffles(groups: int, per_group: int, batch: int, seed: int) -> None:
    net, x = opened(groups * per_group)
    grid = net.op("Reshape", x, net.ints(batch, groups, per_group, 9, 9))
    turned = net.op("Transpose", grid, perm=[0, 2, 1, 3, 4])
    y = net.op("Reshape", turned, net.ints(batch, groups * per_group, 9, 9))
    closed(net, net.conv(y, groups * per_group, 6), 6, seed)


@given(kind=st.sampled_from(["flatten", "reshape", "squeeze", "pool"]), hidden=st.integers(2, 6), seed=SEED)
@PROPERTY
def test_flattening_to_a_linear_layer(kind: str, hidden: int, seed: int) -> None:
    net, x = opened(5, size=3)
    y = {
        "flatten": lambda: net.op("Flatten", x),
        "reshape": lambda: net.op("Reshape", x, net.ints(-1, 45)),
        "squeeze": lambda: net.op("Squeeze", net.op("GlobalMaxPool", x), net.ints(2, 3)),
        "pool": lambda: net.op("Flatten", net.op("AveragePool", x, kernel_shape=[3, 3])),
    }[kind]()
    width = 45 if kind in ("flatten", "reshape") else 5
    y = net.relu(net.op("MatMul", y, net.weight(width, hidden)))
    net.output(net.op("MatMul", y, net.weight(hidden, 3)))
    prune_at_random_and_prove(net, seed)


@given(mode=st.sampled_from(["DCR", "CRD"]), block=st.integers(1, 3), depth=st.integers(1, 4), seed=SEED)
@PROPERTY
def test_depth_to_space_and_back(mode: str, block: int, depth: int, seed: int) -> None:
    net, x = opened(depth * block**2, size=6)
    up = net.relu(net.op("DepthToSpace", x, blocksize=block, mode=mode))
    down = net.op("SpaceToDepth", net.conv(up, depth, 4), blocksize=block)
    closed(net, down, 4 * block**2, seed)


@given(
    front=st.integers(0, 3),
    back=st.integers(0, 3),
    value=st.sampled_from([0.0, 1.5]),
    opset=st.sampled_from([10, 13, 18]),
    seed=SEED,
)
@PROPERTY
def test_padding_over_channels(front: int, back: int, value: float, opset: int, seed: int) -> None:
    net, x = opened(4, opset=opset)
    pads = [0, front, 1, 0, 0, back, 0, 1]
    if opset < 11:
        y = net.op("Pad", x, pads=pads, value=value)
    else:
        y = net.op("Pad", x, net.ints(*pads), net.const(np.float32(value)))
    closed(net, net.conv(y, 4 + front + back, 6), 6, seed)


@given(
    kind=st.sampled_from(["BatchNormalization", "InstanceNormalization", "LayerNormalization"]), bias=st.booleans(), seed=SEED
)
@PROPERTY
def test_normalisations(kind: str, bias: bool, seed: int) -> None:
    net, x = opened(6)
    if kind == "BatchNormalization":
        y = net.bn(x, 6)
    elif kind == "InstanceNormalization":
        y = net.op(kind, x, net.vector(6), net.vector(6))
    else:
        turned = net.op("Transpose", x, perm=[0, 2, 3, 1])
        parts = [turned, net.vector(6)] + ([net.vector(6)] if bias else [])
        y = net.op("Transpose", net.op(kind, *parts, axis=-1), perm=[0, 3, 1, 2])
    closed(net, net.conv(y, 6, 5), 5, seed)


@given(kind=st.sampled_from(["ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2"]), keep=st.booleans(), seed=SEED)
@PROPERTY
def test_reductions_over_channels(kind: str, keep: bool, seed: int) -> None:
    net, x = opened(6)
    axes = {"axes": [1]} if kind != "ReduceSum" else {}
    parts = [x] if axes else [x, net.ints(1)]
    y = net.op(kind, *parts, keepdims=int(keep), **axes)
    y = y if keep else net.op("Unsqueeze", y, net.ints(1))
    closed(net, net.op("Concat", net.conv(y, 1, 3), net.conv(x, 6, 4), axis=1), 7, seed)


@given(
    axis=st.sampled_from([1, 2]), kind=st.sampled_from(["Softmax", "LogSoftmax"]), opset=st.sampled_from([13, 17]), seed=SEED
)
@PROPERTY
def test_softmax(axis: int, kind: str, opset: int, seed: int) -> None:
    net, x = opened(6, opset=opset)
    closed(net, net.conv(net.op(kind, x, axis=axis), 6, 5), 5, seed)
