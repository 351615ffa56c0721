"""Random instances of recurrent, indexing, quantised and sampling operators, random channels removed and proved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models.builder import Net
from models.operator_topologies import cell, integer_conv, linear, quantized, requantized, sequence
from onnx.reference import ReferenceEvaluator
from rules.test_operator_properties import PROPERTY, SEED, closed, opened, prune_at_random_and_prove

from shrinkc import registry
from shrinkc.analysis.node_moves import positions


class Reference:
    """onnx's own evaluator as a runtime, for operators that onnxruntime lacks."""

    def load(self, model: Path | bytes, config: object) -> Reference:
        self.evaluator = ReferenceEvaluator(onnx.load_from_string(model))
        return self

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.evaluator.output_names, self.evaluator.run(None, dict(inputs)), strict=True))


def by_reference() -> Any:
    """Prove with onnx's evaluator in place of onnxruntime."""
    load = registry.load
    return patch.object(registry, "load", lambda group, name: Reference if group == "runtimes" else load(group, name))


@given(
    kind=st.sampled_from(["LSTM", "GRU", "RNN"]), hidden=st.integers(1, 7), directions=st.integers(1, 2), bias=st.booleans(),
    state=st.sampled_from(["none", "stored", "computed", "input"]), peepholes=st.booleans(), reset=st.integers(0, 1),
    reads=st.sampled_from(["all", "last", "both"]), seed=SEED,
)  # fmt: skip
@PROPERTY
def test_recurrent_layers(
    kind: str, hidden: int, directions: int, bias: bool, state: str, peepholes: bool, reset: int, reads: str, seed: int
) -> None:
    net, x = sequence(inputs=3, steps=4, batch=2, seed=seed)
    shape = (directions, 2, hidden)
    make = {
        "stored": lambda: net.weight(*shape),
        "input": lambda: net.input(f"s{len(net.inputs)}", list(shape)),
        "computed": lambda: net.op(
            "Transpose",
            net.op("Reshape", linear(net, net.op("ReduceMean", x, axes=[0], keepdims=0), 3, shape[0] * hidden),
                   net.ints(2, directions, hidden)),
            perm=[1, 0, 2],
        ),
    }  # fmt: skip
    states = [make[state]() for _ in range(2 if kind == "LSTM" else 1)] if state != "none" else None
    options: dict[str, Any] = {"linear_before_reset": reset} if kind == "GRU" else {}
    y, last, *_ = cell(
        net, kind, linear(net, x, 3, 5), 5, hidden, states=states, directions=directions, bias=bias,
        peepholes=peepholes and kind == "LSTM", **options,
    )  # fmt: skip
    if reads != "last":
        flat = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))
        net.output(linear(net, flat, directions * hidden, 3))
    if reads != "all":
        net.output(linear(net, net.op("ReduceMax", last, axes=[0], keepdims=0), hidden, 2))
    prune_at_random_and_prove(net, seed)


@given(kind=st.sampled_from(["LSTM", "GRU", "RNN"]), seed=SEED)
@PROPERTY
def test_recurrent_layers_with_the_batch_first(kind: str, seed: int) -> None:
    net = Net(seed=seed)
    states = [net.weight(2, 1, 6) for _ in range(2 if kind == "LSTM" else 1)]
    x = net.input("x", [2, 4, 3])
    y = cell(net, kind, linear(net, x, 3, 5), 5, 6, states=states, layout=1)[0]
    net.output(linear(net, net.op("Reshape", y, net.ints(2, 4, -1)), 6, 3))
    with by_reference():
        prune_at_random_and_prove(net, seed)


@given(shape=st.sampled_from([(1, 1, 4, 6), (2, 1, 4, 6), (1, 2, 6, 4), (2, 4, 8, 6), (6, 2, 6, 6)]), seed=SEED)
@settings(PROPERTY, max_examples=5)
def test_deformable_convolutions(shape: tuple[int, int, int, int], seed: int) -> None:
    group, offset_group, inputs, outputs = shape
    net, x = opened(inputs, size=3, opset=19)
    offset, mask = (net.conv(x, inputs, count * 4 * offset_group, 2, pads=[0] * 4) for count in (2, 1))
    parts = [x, net.weight(outputs, inputs // group, 2, 2), offset, net.vector(outputs), mask]
    y = net.op("DeformConv", *parts, group=group, offset_group=offset_group, kernel_shape=[2, 2])
    with by_reference():
        closed(net, y, outputs, seed)


@given(chosen=st.lists(st.integers(-7, 6), min_size=2, max_size=7, unique_by=lambda p: p % 7), constant=st.booleans(),
       full=st.booleans(), reduction=st.sampled_from(["none", "add", "max"]), seed=SEED)  # fmt: skip
@PROPERTY
def test_writing_to_channels(chosen: list[int], constant: bool, full: bool, reduction: str, seed: int) -> None:
    net, x = opened(7, size=3, opset=18)
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    part = net.conv(x, 7, len(chosen))
    if full:
        grid = np.stack(np.meshgrid([0], chosen, range(3), range(3), indexing="ij"), axis=-1)
        stored = net.weight(1, len(chosen), 3, 3)
        y = net.op("ScatterND", x, net.const(grid), stored if constant else part, reduction=reduction)
    else:
        turned = [net.op("Transpose", value, perm=[1, 0, 2, 3]) for value in (x, part)]
        stored = net.weight(len(chosen), 1, 3, 3)
        places = net.const(np.asarray(chosen)[:, None])
        y = net.op("ScatterND", turned[0], places, stored if constant else turned[1], reduction=reduction)
        y = net.op("Transpose", y, perm=[1, 0, 2, 3])
    closed(net, net.conv(y, 7, 5), 5, seed)


@given(chosen=st.lists(st.integers(-7, 6), min_size=1, max_size=9), seed=SEED)
@PROPERTY
def test_lists_of_channels(chosen: list[int], seed: int) -> None:
    net, x = opened(7, size=3)
    y = net.op("GatherND", net.op("Transpose", x, perm=[1, 0, 2, 3]), net.const(np.asarray(chosen)[:, None]))
    y = net.op("Transpose", y, perm=[1, 0, 2, 3])
    closed(net, net.conv(y, len(chosen), 5), 5, seed)


@given(
    axis=st.sampled_from([None, 0, 1]), kind=st.sampled_from([np.int8, np.uint8]), group=st.sampled_from([1, 2, 6]), seed=SEED
)
@PROPERTY
def test_quantised_convolutions(axis: int | None, kind: type, group: int, seed: int) -> None:
    net, x = opened(6, size=5)
    weight = quantized(net, net.random.standard_normal((6, 6 // group, 3, 3)), axis, kind)
    y = net.op("Conv", requantized(net, net.relu(x)), weight, net.vector(6), pads=[1, 1, 1, 1], group=group)
    closed(net, y, 6, seed)


@given(zero=st.sampled_from([None, 60, 128]), group=st.sampled_from([1, 2, 6]), seed=SEED)
@PROPERTY
def test_convolutions_of_integers(zero: int | None, group: int, seed: int) -> None:
    net, x = opened(6, size=5)
    closed(net, integer_conv(net, net.relu(x), 6, 6, zero, group), 6, seed)


@given(groups=st.sampled_from([1, 2, 4]), per_group=st.integers(1, 5), opset=st.sampled_from([18, 21]), seed=SEED)
@PROPERTY
def test_group_normalisations(groups: int, per_group: int, opset: int, seed: int) -> None:
    net, x = opened(groups * per_group, size=4, opset=opset)
    net.ir_version = 10
    size = groups * per_group if opset == 21 else groups
    y = net.op("GroupNormalization", x, net.vector(size), net.vector(size), num_groups=groups)
    closed(net, net.conv(y, groups * per_group, 5), 5, seed)


@given(block=st.sampled_from([(1, 2), (2, 2), (3, 1)]), depth=st.integers(1, 4), seed=SEED)
@PROPERTY
def test_folded_columns(block: tuple[int, int], depth: int, seed: int) -> None:
    net, x = opened(depth * block[0] * block[1], size=4, opset=18)
    columns = net.op("Reshape", x, net.ints(0, 0, -1))
    image = net.ints(4 * block[0], 4 * block[1])
    y = net.op("Col2Im", columns, image, net.ints(*block), strides=list(block))
    closed(net, net.conv(y, depth, 5), 5, seed)


@given(step=st.sampled_from([-3, -2, 2, 3]), start=st.integers(-9, 8), space=st.integers(1, 3), opset=st.sampled_from([9, 17]),
       seed=SEED)  # fmt: skip
@PROPERTY
def test_slices_of_channels_and_space_at_once(step: int, start: int, space: int, opset: int, seed: int) -> None:
    step = 1 if opset < 10 else step
    stop = 2**31 if step > 0 else -(2**31)
    width = len(positions(8, start, stop, step))
    assume(width)
    net, x = opened(8, opset=opset)
    if opset < 10:
        y = net.op("Slice", x, axes=[1, 3], starts=[start, space], ends=[stop, 8])
    else:
        y = net.op("Slice", x, net.ints(start, space), net.ints(stop, 8), net.ints(1, 3), net.ints(step, 1))
    closed(net, net.conv(y, width, 5), 5, seed)
