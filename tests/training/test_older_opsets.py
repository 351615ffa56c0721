"""Every version of every operator from opset 9 to 24 on the executor: onnxruntime's outputs, whatever the opset.

onnx's backend suite runs an operator at its newest version only.  Here small graphs are run at the first and at the last opset
that they mean the same in, and each operator at the first and at the last opset of each of its versions.  Where onnxruntime
leaves ONNX (Resize with ``align_corners`` by fractional scales, ``half_pixel_symmetric`` at ties, ConvTranspose of ``SAME``
with wide strides) the executor follows ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models.builder import Net
from training.test_every_model import assert_agrees, reference

from shrinkc import ir as shrinkc_ir
from shrinkc.training.executor import Executor

OLDEST, NEWEST = 9, 24

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One node that means the same from one opset to another; an input that is None is not given."""

    kind: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any]
    opsets: tuple[int, int]
    outputs: int

    def net(self, opset: int, *, is_stored: bool) -> Net:
        """The graph, with all inputs given, or with all but the first stored."""
        net = Net(opset=opset)
        names = [""] * len(self.inputs)
        for i, array in enumerate(self.inputs):
            if array is not None and is_stored and i:
                names[i] = net.const(array, f"in{i}")
            elif array is not None:
                names[i] = net.input(f"in{i}", list(array.shape), onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
        made = net.op(self.kind, *names, outputs=self.outputs, **self.attributes)
        net.outputs = [onnx.ValueInfoProto(name=name) for name in ([made] if self.outputs == 1 else made)]
        return net

    def feed(self, *, is_stored: bool) -> dict[str, Array]:
        """What is given of the inputs."""
        return {f"in{i}": array for i, array in enumerate(self.inputs) if array is not None and not (is_stored and i)}


CASES: list[Case] = []


def case(kind: str, *inputs: Any, opsets: tuple[int, int] = (OLDEST, NEWEST), outputs: int = 1, **attributes: Any) -> None:
    """Add a node to those that are judged; lists are int64."""
    arrays = tuple(np.array(item, np.int64) if isinstance(item, int | list) else item for item in inputs)
    CASES.append(Case(kind, arrays, attributes, opsets, outputs))


def since(kind: str, opset: int) -> int | None:
    """Version of an operator at an opset, None if there is none."""
    try:
        return int(onnx.defs.get_schema(kind, opset).since_version)
    except onnx.defs.SchemaError:
        return None


def ends_of_versions(kind: str, opsets: tuple[int, int]) -> dict[int, int]:
    """First and last opset of every version of an operator, with the version."""
    versions = {opset: version for opset in range(opsets[0], opsets[1] + 1) if (version := since(kind, opset)) is not None}
    return {opset: v for opset, v in versions.items() if not versions.get(opset - 1) == v == versions.get(opset + 1)}


def real(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def share(*shape: int) -> Array:
    """Numbers between 0.1 and 0.9."""
    return np.random.default_rng(shape).uniform(0.1, 0.9, shape).astype(np.float32)


def whole(*shape: int, low: int = -9, high: int = 10) -> Array:
    return np.random.default_rng(shape).integers(low, high, shape)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def number(value: float, dtype: Any = np.float32) -> Array:
    return np.array(value, dtype)


# Element by element.
UNARY = (
    "Abs", "Atan", "Asinh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "GlobalAveragePool",
    "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "Relu", "Round",
    "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Softplus", "Softsign", "Tan", "Tanh",
    "ThresholdedRelu", "Transpose",
)  # fmt: skip
for name in UNARY:
    case(name, 2 * real(2, 3, 5, 4))
for name in ("Log", "Sqrt", "Reciprocal", "Asin", "Acos", "Atanh"):
    case(name, share(3, 5))
case("Acosh", 1 + share(3, 5))
for name in ("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "PRelu"):
    first = 11 if name == "Equal" else OLDEST
    case(name, share(2, 3, 4), share(3, 1), opsets=(first, NEWEST))
for name in ("Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater"):
    case(name, whole(2, 3, 4), whole(3, 1, low=1))
    case(name, whole(2, 3, 4).astype(np.int32), whole(4, low=1).astype(np.int32))
for name in ("And", "Or", "Xor"):
    case(name, real(2, 3) > 0, real(3) > 0)
case("Equal", real(2, 3) > 0, real(3) > 0)
case("Not", real(2, 3) > 0)
for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
    case(name, whole(2, 3), whole(3))
case("BitwiseNot", whole(2, 3))
case("BitShift", whole(2, 3, low=0).astype(np.uint8), whole(3, low=0, high=5).astype(np.uint8), direction="LEFT")
case("BitShift", whole(2, 3, low=0).astype(np.uint64), whole(3, low=0, high=5).astype(np.uint64), direction="RIGHT")
for name in ("Sum", "Max", "Min", "Mean"):
    case(name, real(2, 1, 4), real(3, 1), real(4))
    case(name, real(2, 3))
for name in ("Max", "Min"):
    case(name, whole(2, 3), whole(3), opsets=(12, NEWEST))
case("Pow", whole(2, 3), whole(3, low=0, high=4), opsets=(12, NEWEST))
case("Pow", whole(2, 3).astype(np.int32), whole(3, low=0, high=4), opsets=(12, NEWEST))
case("Pow", whole(2, 3, low=0), share(3), opsets=(12, NEWEST))
case("Pow", share(2, 3), share(3).astype(np.float64), opsets=(12, NEWEST))
case("Pow", real(2, 3), whole(3, low=0, high=4), opsets=(12, NEWEST))
case("Where", real(3, 1) > 0, real(2, 3, 4), real(4))
case("Where", real(3, 1) > 0, whole(2, 3, 4), whole(4))
for is_fmod in (0, 1):
    case("Mod", whole(3, 4), whole(4, low=2, high=5), fmod=is_fmod)
    case("Mod", whole(3, 4), -whole(4, low=2, high=5), fmod=is_fmod)
    case("Mod", whole(3, 4).astype(np.int32), -whole(4, low=2, high=5).astype(np.int32), fmod=is_fmod)
case("Mod", 9 * real(3, 4), real(4), fmod=1)
case("Round", floats(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5))
case("Clip", real(3, 4), opsets=(OLDEST, 10), min=-0.5, max=0.25)
case("Clip", real(3, 4), opsets=(OLDEST, 10), min=-0.5)
case("Clip", real(3, 4), opsets=(OLDEST, 10), max=0.25)
case("Clip", real(3, 4), opsets=(OLDEST, 10))
case("Clip", real(3, 4), opsets=(11, NEWEST))
case("Clip", real(3, 4), number(-0.5), number(0.25), opsets=(11, NEWEST))
case("Clip", real(3, 4), None, number(0.25), opsets=(11, NEWEST))
case("Clip", real(3, 4), number(-0.5), opsets=(11, NEWEST))
case("Clip", real(3, 4), number(0.5), number(-0.5), opsets=(11, NEWEST))
case("Clip", whole(3, 4), -3, 5, opsets=(12, NEWEST))
case("Clip", whole(3, 4, low=0).astype(np.uint8), number(3, np.uint8), number(5, np.uint8), opsets=(12, NEWEST))
case("LeakyRelu", real(3, 4), alpha=0.3)
case("Elu", real(3, 4), alpha=0.3)
case("Celu", real(3, 4), alpha=0.3)
case("Selu", real(3, 4), alpha=0.3, gamma=2.0)
case("HardSigmoid", real(3, 4), alpha=0.3, beta=0.4)
case("ThresholdedRelu", real(3, 4), alpha=0.3)
case("Gelu", real(3, 4), approximate="tanh")
case("Swish", real(3, 4), alpha=1.5)
case("Shrink", real(3, 4), lambd=0.3, bias=0.1)
case("Shrink", whole(3, 4), lambd=3.0, bias=1.0)
case("PRelu", real(2, 3, 4, 5), share(3, 1, 1))
case("PRelu", real(2, 3, 4, 5), share(1))
case("IsInf", floats(1, np.inf, -np.inf, np.nan), detect_negative=0)
case("IsInf", floats(1, np.inf, -np.inf, np.nan), detect_positive=0)
case("IsNaN", floats(1, np.inf, np.nan))
for target in (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL, onnx.TensorProto.DOUBLE):
    case("Cast", 3 * real(3, 4), to=int(target))
case("Cast", whole(3, 4), to=int(onnx.TensorProto.FLOAT))
case("Cast", whole(3, 4) > 0, to=int(onnx.TensorProto.FLOAT))
case("CastLike", 3 * real(3, 4), whole(1))
case("CastLike", whole(3, 4), real(1))

# Softmaxes: before opset 13 all axes from the given one on are one.
for name in ("Softmax", "LogSoftmax", "Hardmax"):
    case(name, real(2, 3, 4))
    case(name, real(2, 3, 4), axis=0)
    case(name, real(2, 3, 4), axis=2)
    case(name, real(2, 3, 4, 2), axis=-2, opsets=(11, NEWEST))
    case(name, real(5), axis=0)
    case(name, real(0, 3, 4), axis=1)

# Axes: an attribute, then an input.
for name in ("Squeeze", "Unsqueeze"):
    data, axes = (real(1, 3, 1, 4), [[0], [0, 2]]) if name == "Squeeze" else (real(3, 4), [[1], [0, 3], [3, 0]])
    for some in axes:
        case(name, data, opsets=(OLDEST, 12), axes=some)
        case(name, data, some, opsets=(13, NEWEST))
    case(name, data, opsets=(11, 12), axes=[-2])
    case(name, data, [-2], opsets=(13, NEWEST))
case("Squeeze", real(1, 3, 1, 4))
MEANS = ["Mean", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp", "Max", "Min"]
for name, change in [("ReduceSum", 13), *((f"Reduce{kind}", 18) for kind in MEANS)]:
    for keep in (0, 1):
        case(name, share(2, 3, 4), keepdims=keep)
        case(name, share(2, 3, 4), axes=[1], keepdims=keep, opsets=(OLDEST, change - 1))
        case(name, share(2, 3, 4), axes=[0, 2], keepdims=keep, opsets=(OLDEST, change - 1))
        case(name, share(2, 3, 4), axes=[-1, 0], keepdims=keep, opsets=(11, change - 1))
        case(name, share(2, 3, 4), [1], keepdims=keep, opsets=(change, NEWEST))
        case(name, share(2, 3, 4), [-1, 0], keepdims=keep, opsets=(change, NEWEST))
        case(name, share(2, 3, 4), [], keepdims=keep, opsets=(change, NEWEST))
    case(name, real(2, 3, 4) ** 2, noop_with_empty_axes=1, opsets=(change, NEWEST))
    case(name, real(2, 3, 4) ** 2, [], noop_with_empty_axes=1, opsets=(change, NEWEST))
    case(name, real(2, 3, 4) ** 2, [1], noop_with_empty_axes=1, opsets=(change, NEWEST))
for name in ("Sum", "Mean", "Prod", "Max", "Min", "L1", "SumSquare"):
    case(f"Reduce{name}", whole(3, 4).astype(np.int32))
for name in ("ReduceMax", "ReduceMin"):
    case(name, whole(3, 4, low=0).astype(np.uint8), [0], opsets=(18, NEWEST))
    case(name, whole(3, 4, low=0).astype(np.uint8), axes=[0], opsets=(12, 17))
    case(name, real(3, 4) > 0, [1], opsets=(20, NEWEST))
for name in ("ArgMax", "ArgMin"):
    tied = whole(3, 4, 5, low=0, high=3).astype(np.float32)
    for keep in (0, 1):
        case(name, tied, keepdims=keep)
        case(name, tied, axis=1, keepdims=keep)
        case(name, tied, axis=-1, keepdims=keep, opsets=(11, NEWEST))
        case(name, tied, axis=-1, keepdims=keep, select_last_index=1, opsets=(12, NEWEST))
        case(name, tied, axis=0, keepdims=keep, select_last_index=1, opsets=(12, NEWEST))
    case(name, tied.astype(np.int32), axis=1)
for exclusive in (0, 1):
    for reverse in (0, 1):
        case("CumSum", real(3, 4), 1, exclusive=exclusive, reverse=reverse)
        case("CumSum", whole(3, 4), -2, exclusive=exclusive, reverse=reverse)
case("CumSum", real(3, 4), number(1, np.int32))

# Layout.
case("Split", real(2, 6), axis=1, outputs=3, opsets=(OLDEST, 17))
case("Split", real(4, 2), outputs=2, opsets=(OLDEST, 17))
case("Split", real(2, 6), axis=1, split=[1, 3, 2], outputs=3, opsets=(OLDEST, 12))
case("Split", real(2, 6), axis=-1, split=[1, 5], outputs=2, opsets=(11, 12))
case("Split", real(2, 6), axis=-1, split=[0, 6], outputs=2, opsets=(11, 12))
case("Split", real(2, 6), [1, 3, 2], axis=1, outputs=3, opsets=(13, NEWEST))
case("Split", real(2, 6), [6, 0], axis=-1, outputs=2, opsets=(13, NEWEST))
case("Split", real(2, 6), axis=1, num_outputs=3, outputs=3, opsets=(18, NEWEST))
case("Split", real(2, 7), axis=-1, num_outputs=3, outputs=3, opsets=(18, NEWEST))
case("Split", real(7, 2), num_outputs=2, outputs=2, opsets=(18, NEWEST))
case("Split", real(6, 2), axis=0, num_outputs=1, opsets=(18, NEWEST))
case("Slice", real(4, 5, 6), axes=[0, 2], starts=[1, -3], ends=[3, 100], opsets=(OLDEST, 9))
case("Slice", real(4, 5, 6), starts=[-100, 2], ends=[-1, 4], opsets=(OLDEST, 9))
case("Slice", real(4, 5, 6), starts=[3], ends=[2], opsets=(OLDEST, 9))
case("Slice", real(4, 5, 6), axes=[-1], starts=[1], ends=[2], opsets=(OLDEST, 9))
for axis in (2, -1):
    case("Slice", real(4, 5, 6), [1, -3], [3, 100], [0, axis], opsets=(10, NEWEST))
    case("Slice", real(4, 5, 6), [-1, 1], [-100, 5], [0, axis], [-1, 2], opsets=(10, NEWEST))
    case("Slice", real(4, 5, 6), [100], [-(2**63)], [axis], [-2], opsets=(10, NEWEST))
    case("Slice", real(4, 5, 6), [1], [4], [axis], [-1], opsets=(10, NEWEST))
    case("Slice", real(4, 5, 6), [-100], [-101], [axis], [-1], opsets=(10, NEWEST))
case("Slice", real(4, 5, 6), [1], [2**63 - 1], opsets=(10, NEWEST))
case("Slice", real(4, 5, 6), whole(2, low=0, high=2).astype(np.int32), number(4, np.int32).repeat(2), opsets=(10, NEWEST))
case("Concat", real(2, 3), real(2, 1), real(2, 2), axis=1)
case("Concat", real(2, 3), real(2, 1), axis=-1, opsets=(11, NEWEST))
case("Concat", real(2, 3), real(1, 3), axis=-2, opsets=(11, NEWEST))
for axis in (0, 1, 2, 3):
    case("Flatten", real(2, 3, 4), axis=axis)
for axis in (-1, -2, -3):
    case("Flatten", real(2, 3, 4), axis=axis, opsets=(11, NEWEST))
case("Flatten", real(0, 3, 4))
case("Reshape", real(2, 3, 4), [0, -1])
case("Reshape", real(2, 3, 4), [4, 0, 2])
case("Reshape", real(0, 3), [3, 0], allowzero=1, opsets=(14, NEWEST))
case("Reshape", real(2, 3), [3, -1], allowzero=1, opsets=(14, NEWEST))
case("Reshape", real(0, 3), [0, 1, 3])
case("Shape", real(2, 3, 4), start=1, opsets=(15, NEWEST))
case("Shape", real(2, 3, 4), start=-1, opsets=(15, NEWEST))
case("Shape", real(2, 3, 4), end=-1, opsets=(15, NEWEST))
case("Shape", real(2, 3, 4), start=-100, end=100, opsets=(15, NEWEST))
case("Shape", real(2, 3, 4), start=2, end=1, opsets=(15, NEWEST))
case("Transpose", real(2, 3, 4), perm=[2, 0, 1])
case("Expand", real(3, 1), [2, 1, 4])
case("Expand", real(3, 4), [1])
case("Tile", real(2, 3), [2, 1])
case("Tile", whole(2, 3), [0, 2])
case("Range", 3, 11, 4)
case("Range", 11, 3, -3)
case("Range", 3, 3, 1)
case("Range", 3, 5, -1)
case("Range", 5, 3, 1)
case("Range", number(0), number(1), number(0.1))
case("Range", number(1), number(-1.5), number(-0.3))
case("EyeLike", real(3, 4))
case("EyeLike", real(4, 3), k=-1, dtype=int(onnx.TensorProto.INT64))
case("EyeLike", real(4, 3), k=2)
for upper in (0, 1):
    case("Trilu", real(2, 3, 4), upper=upper)
    case("Trilu", whole(4, 3), -1, upper=upper)
    case("Trilu", real(4, 3), 2, upper=upper)
case("DepthToSpace", real(2, 12, 3, 2), blocksize=2)
case("DepthToSpace", real(2, 12, 3, 2), blocksize=2, mode="DCR", opsets=(11, NEWEST))
case("DepthToSpace", real(2, 12, 3, 2), blocksize=2, mode="CRD", opsets=(11, NEWEST))
case("SpaceToDepth", real(2, 3, 4, 6), blocksize=2)
case("ConstantOfShape", np.array([2, 3]))
case("ConstantOfShape", np.array([2, 3]), value=onnx.helper.make_tensor("v", onnx.TensorProto.INT64, [1], [7]))
case("ConstantOfShape", np.array([2, 0]), value=onnx.helper.make_tensor("v", onnx.TensorProto.BOOL, [1], [1]))
case("ReverseSequence", real(4, 3, 2), [1, 4, 2])
case("ReverseSequence", real(3, 4, 2), [1, 4, 2], time_axis=1, batch_axis=0)
case("CenterCropPad", real(5, 4, 3), [3, 7, 3])
case("CenterCropPad", real(5, 4, 3), [6, 1], axes=[-3, 1])
case("Col2Im", real(2, 8, 12), [4, 5], [2, 2])
case("Col2Im", real(2, 8, 10), [5, 5], [2, 2], dilations=[1, 2], pads=[0, 1, 0, 1], strides=[2, 1])
for pads in ([0, 1, 2, 1], [1, 0, 0, 2], [0, -1, 1, 1], [-1, 0, 0, -2]):
    case("Pad", real(3, 4), pads=pads, opsets=(OLDEST, 10))
    case("Pad", real(3, 4), pads=pads, value=1.5, opsets=(OLDEST, 10))
    case("Pad", real(3, 4), pads, opsets=(11, NEWEST))
    case("Pad", real(3, 4), pads, number(1.5), opsets=(11, NEWEST))
    for mode in ("reflect", "edge", "wrap"):
        if mode != "wrap":
            case("Pad", real(3, 4), pads=pads, mode=mode, opsets=(OLDEST, 10))
        case("Pad", real(3, 4), pads, mode=mode, opsets=(19 if mode == "wrap" else 11, NEWEST))
case("Pad", real(3, 4), [1, 2], number(0.5), [-1], opsets=(18, NEWEST))
case("Pad", real(3, 4, 5), [1, 0, 0, 2], None, [2, 0], mode="edge", opsets=(18, NEWEST))
case("Pad", real(3, 4, 5), [1, 0, 0, 2], None, [-1, 0], mode="wrap", opsets=(19, NEWEST))
case("Pad", whole(3, 4), [1, 0, 0, 2], 7, opsets=(13, NEWEST))
case("Pad", real(3, 4) > 0, [1, 0, 0, 2], opsets=(13, NEWEST))

# Picking.
case("Gather", real(4, 5), [[1, 0], [3, 3]])
case("Gather", real(4, 5, 2), [2, 0], axis=1)
case("Gather", real(4, 5), [-1, 0, -4], opsets=(11, NEWEST))
case("Gather", real(4, 5), -1, axis=-1, opsets=(11, NEWEST))
case("Gather", whole(4), number(1, np.int32))
case("Gather", real(4, 5), np.zeros((2, 0), np.int64), axis=1)
case("GatherElements", real(3, 4), [[0, 2, 1, -1], [-3, 0, 2, 2]])
case("GatherElements", real(3, 4), [[0, -1], [3, 2], [1, 1]], axis=-1)
case("GatherND", real(3, 4, 2), [[0, 1], [2, -1]])
case("GatherND", real(3, 4, 2), [[[0], [2]], [[1], [-1]]])
case("GatherND", real(3, 4, 2), [[1], [3], [-1]], batch_dims=1, opsets=(12, NEWEST))
PLACES, UPDATES = [[0, 2, 1, 1], [1, 0, 2, 0]], real(2, 4, seed=5)
case("Scatter", real(3, 4), PLACES, UPDATES, opsets=(OLDEST, 10))
case("Scatter", real(3, 5), [[1, 3], [0, 4]], UPDATES[:, :2], axis=1, opsets=(OLDEST, 10))
case("ScatterElements", real(3, 4), PLACES, UPDATES)
case("ScatterElements", real(3, 5), [[1, -2], [0, 4]], UPDATES[:, :2], axis=-1)
for reduction in ("none", "add", "mul", "max", "min"):
    opsets = (18 if reduction in ("max", "min") else 16, NEWEST)
    if reduction != "none":
        case("ScatterElements", real(3, 5), [[1, 1, -1], [0, 4, 0]], real(2, 3), axis=1, reduction=reduction, opsets=opsets)
        case("ScatterND", real(3, 4), [[1], [1]], UPDATES, reduction=reduction, opsets=opsets)
        case("ScatterND", real(3, 4), [[1, 2], [-1, 3], [1, 2]], real(3), reduction=reduction, opsets=opsets)
    case("ScatterElements", real(3, 4), PLACES, UPDATES, reduction=reduction, opsets=opsets)
    case("ScatterND", real(3, 4), [[0], [2]], UPDATES, reduction=reduction, opsets=opsets)
case("ScatterND", real(3, 4), [[2], [0]], UPDATES)
case("ScatterND", real(3, 4), [[1, 2], [-1, -4]], real(2))
TIED = whole(3, 5, low=0, high=4).astype(np.float32)
case("TopK", TIED, k=3, outputs=2, opsets=(OLDEST, 9))
case("TopK", TIED, k=2, axis=0, outputs=2, opsets=(OLDEST, 9))
case("TopK", TIED, [3], outputs=2, opsets=(10, NEWEST))
case("TopK", TIED, [2], axis=0, outputs=2, opsets=(10, NEWEST))
case("TopK", TIED, [3], axis=-2, outputs=2, opsets=(11, NEWEST))
case("TopK", TIED, [3], largest=0, outputs=2, opsets=(11, NEWEST))
case("TopK", whole(3, 5), [2], largest=0, outputs=2, opsets=(11, NEWEST))
case("NonZero", real(3, 4).round())
case("NonZero", real(3, 4) > 0)
case("Compress", real(3, 4), np.array([True, False, True]), axis=1)
case("Compress", real(3, 4), np.array([True, False, True, True]))
case("Compress", real(3, 4), np.array([True, False, True]), axis=-1, opsets=(11, NEWEST))
case("OneHot", np.array([0, 2, 3]), 4, floats(-1, 5))
case("OneHot", np.array([0, 2, 3]), [4], np.array([0, 1]), axis=0)
case("OneHot", floats(0, 2, 3), number(4), floats(0, 1), axis=1)
case("OneHot", np.array([[0, 2], [1, 9]], np.int64), 3, floats(0, 1), axis=1)
case("OneHot", np.array([[0, -1], [-3, 1]]), 3, floats(0, 1), axis=-2, opsets=(11, NEWEST))
case("Unique", floats(2, 1, 1, 3, 2), outputs=4)
case("Unique", floats(2, 1, 1, 3, 2), outputs=4, sorted=0)
case("Unique", np.array([[1, 0], [1, 0], [2, 3]], np.float32), outputs=4, axis=0)
case("TensorScatter", real(2, 3, 5, 4), real(2, 3, 2, 4), [1, 3])

# Products, convolutions, pools.
case("MatMul", real(2, 3, 4), real(4, 5))
case("MatMul", real(4), real(2, 4, 5))
for shape in ((5,), (1, 5), (3, 1), (3, 5), (1,)):
    case("Gemm", real(3, 4), real(4, 5), real(*shape))
    case("Gemm", real(4, 3), real(5, 4), real(*shape), transA=1, transB=1, alpha=0.5, beta=2.0)
    case("Gemm", real(3, 4), real(5, 4), real(*shape), transB=1)
case("Gemm", real(3, 4), real(5, 4), transB=1, opsets=(11, NEWEST))
case("Gemm", real(3, 4), real(4, 5), alpha=0.5, opsets=(11, NEWEST))
case("Gemm", real(3, 4), real(4, 5), number(2.0))
case("Einsum", real(2, 3, 4), real(2, 4, 5), equation="bij, bjk -> bik")
case("Einsum", real(2, 3, 4), real(4, 5), equation="...j,jk->...k")
case("Einsum", real(3, 4), real(4, 5), equation="bA,Aa")
case("Einsum", real(3, 3), equation="ii->i")
case("Det", real(2, 3, 3))
case("Conv", real(2, 4, 7, 6), real(6, 2, 3, 2), real(6), group=2, pads=[1, 0, 2, 1], strides=[2, 1])
case("Conv", real(2, 4, 9), real(6, 4, 3), dilations=[2], pads=[1, 1])
for padding in ("SAME_UPPER", "SAME_LOWER", "VALID"):
    case("Conv", real(2, 3, 7, 6), real(4, 3, 2, 3), auto_pad=padding, strides=[2, 1])
    case("ConvTranspose", real(2, 3, 4, 5), real(3, 4, 3, 2), auto_pad=padding, strides=[2, 1])
    case("MaxPool", real(2, 3, 7, 6), kernel_shape=[2, 3], auto_pad=padding, strides=[2, 2])
    case("AveragePool", real(2, 3, 7, 6), kernel_shape=[2, 3], auto_pad=padding, strides=[2, 2])
    case("LpPool", real(2, 3, 7, 6), kernel_shape=[2, 3], auto_pad=padding, strides=[2, 2])
case("ConvTranspose", real(2, 4, 4, 5), real(4, 3, 3, 2), real(6), group=2, strides=[2, 3], pads=[1, 0, 0, 1])
case("ConvTranspose", real(2, 3, 4, 5), real(3, 4, 3, 3), strides=[2, 2], output_padding=[1, 0], pads=[1, 1, 1, 1])
case("ConvTranspose", real(2, 3, 4), real(3, 4, 3), strides=[2], dilations=[2])
case("ConvTranspose", real(2, 3, 4, 5), real(3, 4, 3, 3), strides=[2, 2], output_shape=[8, 10])
case("ConvTranspose", real(2, 3, 4, 5), real(3, 4, 3, 3), strides=[2, 2], output_shape=[8, 10], auto_pad="SAME_UPPER")
case("ConvTranspose", real(2, 3, 4, 5), real(3, 4, 3, 3), strides=[3, 2], output_shape=[13, 12])
case("MaxPool", real(2, 3, 7), kernel_shape=[3], pads=[1, 0])
case("MaxPool", real(2, 3, 7, 6), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], outputs=2)
case("MaxPool", real(2, 3, 7, 6), kernel_shape=[3, 2], outputs=2, storage_order=1)
case("AveragePool", real(2, 3, 7), kernel_shape=[3], pads=[1, 0])
case("AveragePool", real(2, 3, 7, 6), kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1)
for strides in ([2, 2], [3, 2], [2, 3]):
    for pads in ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]):
        options = {"kernel_shape": [3, 2], "strides": strides, "pads": pads}
        case("MaxPool", real(2, 3, 8, 7), ceil_mode=1, **options, opsets=(10, NEWEST))
        case("MaxPool", real(2, 3, 9, 9), ceil_mode=1, dilations=[2, 3], **options, opsets=(10, NEWEST))
        case("MaxPool", real(2, 3, 9, 9), dilations=[2, 3], outputs=2, **options, opsets=(10, NEWEST))
        case("LpPool", real(2, 3, 8, 7), ceil_mode=1, **options, opsets=(18, NEWEST))
        case("LpPool", real(2, 3, 9, 9), dilations=[2, 3], **options, opsets=(18, NEWEST))
        for counts in (0, 1):
            case("AveragePool", real(2, 3, 8, 7), ceil_mode=1, count_include_pad=counts, **options, opsets=(10, NEWEST))
            case("AveragePool", real(2, 3, 9, 9), dilations=[2, 3], count_include_pad=counts, **options, opsets=(19, NEWEST))
case("MaxPool", whole(2, 3, 7, 6).astype(np.int8), kernel_shape=[3, 2], opsets=(12, NEWEST))
case("LpPool", real(2, 3, 7, 6), kernel_shape=[3, 2], p=1, pads=[1, 0, 1, 1])
for p in (1, 2):
    case("GlobalLpPool", real(2, 3, 7, 6), p=p, opsets=(OLDEST, 21))
case("MaxUnpool", real(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]]), kernel_shape=[2, 2], strides=[2, 2])
case("MaxUnpool", real(1, 1, 2, 2), [[[[0, 2], [8, 14]]]], [1, 1, 4, 4], kernel_shape=[2, 2], strides=[2, 2])
case("DeformConv", real(1, 2, 5, 5), real(3, 2, 2, 2), real(1, 8, 4, 4), real(3), kernel_shape=[2, 2])
case("DeformConv", real(1, 2, 5, 5), real(3, 2, 2, 2), real(1, 8, 6, 6), None, share(1, 4, 6, 6), pads=[1, 1, 1, 1])

# Normalisations.
PLANES = real(2, 4, 3, 5)
SCALES = (share(4), real(4), real(4, seed=1), share(4))
case("BatchNormalization", PLANES, *SCALES, epsilon=1e-3)
case("BatchNormalization", real(3, 4), *SCALES, momentum=0.7)
case("BatchNormalization", PLANES, *SCALES, training_mode=1, momentum=0.7, outputs=3, opsets=(14, NEWEST))
case("InstanceNormalization", PLANES, share(4), real(4), epsilon=1e-3)
case("InstanceNormalization", real(2, 4, 5), share(4), real(4))
case("InstanceNormalization", real(2, 4, 1, 1), share(4), real(4), epsilon=1.0)
case("GroupNormalization", PLANES, share(2), real(2), num_groups=2, opsets=(18, 20))
case("GroupNormalization", real(2, 6, 5), share(3), real(3), num_groups=3, epsilon=1e-2, opsets=(18, 20))
case("GroupNormalization", PLANES, share(4), real(4), num_groups=2, opsets=(21, NEWEST))
case("GroupNormalization", real(1, 4, 1), share(4), real(4), num_groups=4, opsets=(21, NEWEST))
for axis in (-1, 1, 2, -2):
    shape = PLANES.shape[axis:]
    case("LayerNormalization", PLANES, share(*shape), real(*shape), axis=axis, outputs=3)
    case("RMSNormalization", PLANES, share(*shape), axis=axis)
case("LayerNormalization", PLANES, share(5), epsilon=1e-2)
case("MeanVarianceNormalization", PLANES)
case("MeanVarianceNormalization", PLANES, axes=[1, 3])
for p in (1, 2):
    case("LpNormalization", PLANES, p=p)
    case("LpNormalization", PLANES, axis=1, p=p)
case("LRN", real(2, 6, 3, 3), size=3, alpha=0.1, beta=0.5, bias=2.0)
case("LRN", real(2, 6, 3, 3), size=5)
case("Dropout", PLANES, opsets=(OLDEST, 11), ratio=0.3)
case("Dropout", PLANES, outputs=2, opsets=(12, NEWEST))
case("Dropout", PLANES, number(0.3), opsets=(12, NEWEST))
case("Dropout", PLANES, number(0.3), np.array(False), outputs=2, opsets=(12, NEWEST))
case("Dropout", PLANES, number(0.0), np.array(True), outputs=2, opsets=(12, NEWEST))

# Recurrent layers.
for kind, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
    for direction in ("forward", "reverse", "bidirectional"):
        d = 2 if direction == "bidirectional" else 1
        weights = (real(d, gates * 4, 3), real(d, gates * 4, 4), real(d, gates * 8))
        n = 3 if kind == "LSTM" else 2
        case(kind, real(5, 2, 3), *weights, hidden_size=4, direction=direction, outputs=n)
        states = (real(d, 2, 4), real(d, 2, 4, seed=1))[: n - 1]
        lengths = np.array([5, 3], np.int32)
        case(kind, real(5, 2, 3), *weights, lengths, *states, hidden_size=4, direction=direction, outputs=n)
W, R, B = real(1, 12, 3), real(1, 12, 4), real(1, 24)
case("GRU", real(5, 2, 3), W, R, B, hidden_size=4, linear_before_reset=1, outputs=2)
case("GRU", real(5, 2, 3), W, R, None, hidden_size=4, clip=0.3, activations=["HardSigmoid", "Softsign"], outputs=2)
numbers = {"activation_alpha": [0.3, 0.6], "activation_beta": [0.4]}
case("GRU", real(5, 2, 3), W, R, None, hidden_size=4, activations=["Tanh", "LeakyRelu"], outputs=2, **numbers)
case("GRU", real(5, 2, 3), W, R, None, hidden_size=4, activations=["HardSigmoid", "LeakyRelu"], outputs=2, **numbers)
W, R, B = real(1, 16, 3), real(1, 16, 4), real(1, 32)
case("LSTM", real(5, 2, 3), W, R, B, None, None, None, real(1, 12), hidden_size=4, outputs=3)
case("LSTM", real(5, 2, 3), W, R, B, hidden_size=4, input_forget=1, outputs=3)

# Resizing.
IMAGE, NOTHING = real(2, 3, 5, 7), np.zeros(0, np.float32)
LARGER, SMALLER, ODD = floats(1, 1, 2, 3), floats(1, 1, 0.6, 0.5), floats(1, 1, 1.7, 0.7)
for scales in (LARGER, SMALLER, ODD):
    for mode in ("nearest", "linear"):
        case("Upsample", IMAGE, np.maximum(scales, 1), mode=mode, opsets=(OLDEST, 9))
        case("Resize", IMAGE, scales, mode=mode, opsets=(10, 10))
    for where in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn"):
        if where == "align_corners" and scales is not LARGER:
            continue  # onnx reckons with the size that the scale says, onnxruntime with the one that it is rounded to
        options = {"coordinate_transformation_mode": where, "opsets": (11, 12 if where == "tf_half_pixel_for_nn" else NEWEST)}
        for mode in ("linear", "cubic"):
            case("Resize", IMAGE, NOTHING, scales, mode=mode, **options)
        for nearest in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
            case("Resize", IMAGE, NOTHING, scales, nearest_mode=nearest, **options)
for sizes in ([2, 3, 8, 5], [2, 3, 10, 14], [2, 3, 1, 3]):
    for mode in ("nearest", "linear", "cubic"):
        case("Resize", IMAGE, NOTHING, NOTHING, sizes, mode=mode, opsets=(11, 12))
        for where in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
            case("Resize", IMAGE, None, None, sizes, mode=mode, coordinate_transformation_mode=where, opsets=(13, NEWEST))
        for policy in ("not_larger", "not_smaller"):
            keep = {"keep_aspect_ratio_policy": policy, "opsets": (18, NEWEST)}
            case("Resize", IMAGE, None, None, sizes[2:], mode=mode, axes=[2, 3], **keep)
        if mode != "nearest":
            case("Resize", IMAGE, None, None, sizes, mode=mode, antialias=1, opsets=(18, NEWEST))
            where = {"coordinate_transformation_mode": "half_pixel_symmetric", "opsets": (19, NEWEST)}
            case("Resize", IMAGE, None, ODD, mode=mode, **where)
case(
    "Resize",
    real(1, 2, 3, 7),
    None,
    None,
    [1, 2, 2, 2],
    nearest_mode="round_prefer_ceil",
    opsets=(13, NEWEST),
    coordinate_transformation_mode="asymmetric",
)
case("Resize", IMAGE, None, None, [6, 9], axes=[-2, -1], mode="linear", opsets=(18, NEWEST))
case("Resize", IMAGE, None, SMALLER, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5, opsets=(13, NEWEST))
case("Resize", IMAGE, None, SMALLER, mode="cubic", antialias=1, exclude_outside=1, opsets=(18, NEWEST))
ROI = floats(0, 0, 0.2, 0.1, 1, 1, 0.8, 1.3)
for mode in ("nearest", "linear", "cubic"):
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
    case("Resize", IMAGE, ROI, None, [2, 3, 4, 6], mode=mode, **crop, opsets=(13, NEWEST))
    case("Resize", IMAGE, ROI, NOTHING, [2, 3, 4, 6], mode=mode, **crop, opsets=(11, 12))
case("Resize", real(2, 3, 10), None, floats(1, 1, 0.7), opsets=(13, NEWEST))
case("Resize", real(5, 10), None, floats(0.6, 0.7), mode="linear", opsets=(13, NEWEST))

# Sampling.
GRID = 1.2 * np.tanh(real(2, 4, 6, 2))
for padding in ("zeros", "border", "reflection"):
    for corners in (0, 1):
        options = {"padding_mode": padding, "align_corners": corners}
        for mode in ("bilinear", "nearest", "bicubic"):
            case("GridSample", IMAGE, GRID, mode=mode, **options, opsets=(16, 19))
        for mode in ("linear", "nearest", "cubic"):
            case("GridSample", IMAGE, GRID, mode=mode, **options, opsets=(20, NEWEST))
        for mode in ("linear", "nearest"):
            case("GridSample", real(1, 2, 3, 4, 5), np.tanh(real(1, 2, 3, 4, 3)), mode=mode, **options, opsets=(20, NEWEST))
case("AffineGrid", real(2, 2, 3), [2, 3, 4, 5])
case("AffineGrid", real(2, 3, 4), [2, 3, 4, 5, 3], align_corners=1)
BOXES = floats(0, 0, 8, 8, 2, 1, 9, 12, 3.5, 2.5, 4, 3).reshape(3, 4)
for ratio in (0, 2):
    options = {"output_height": 3, "output_width": 2, "spatial_scale": 0.5, "sampling_ratio": ratio}
    case("RoiAlign", real(2, 3, 8, 9), BOXES, [0, 1, 1], **options, opsets=(10, 21))
    for where in ("half_pixel", "output_half_pixel"):
        more = {"coordinate_transformation_mode": where, "opsets": (16, 21)}
        case("RoiAlign", real(2, 3, 8, 9), BOXES, [0, 1, 1], **options, **more)
case("MaxRoiPool", real(2, 3, 8, 9), np.insert(BOXES, 0, 1, 1), pooled_shape=[2, 3], spatial_scale=0.5, opsets=(OLDEST, 21))
RIVALS = (BOXES[None] + real(1, 3, 4), share(1, 2, 3))
case("NonMaxSuppression", *RIVALS, [2], floats(0.2), floats(0.3), opsets=(10, NEWEST))
case("NonMaxSuppression", np.abs(RIVALS[0]), RIVALS[1], [3], floats(0.1), center_point_box=1, opsets=(10, NEWEST))

# Signals.
SIGNAL = real(2, 8, 1)
for onesided in (0, 1):
    case("DFT", SIGNAL, onesided=onesided, opsets=(17, 19))
    case("DFT", SIGNAL, 5, axis=-2, onesided=onesided, opsets=(17, 19))
    case("DFT", SIGNAL, onesided=onesided, opsets=(20, NEWEST))
    case("DFT", SIGNAL, 5, -2, onesided=onesided, opsets=(20, NEWEST))
    case("DFT", SIGNAL, None, 0, onesided=onesided, opsets=(20, NEWEST))
case("DFT", real(2, 5, 2), inverse=1, opsets=(17, 19))
case("DFT", real(2, 5, 2), inverse=1, opsets=(20, NEWEST))
case("STFT", real(2, 16, 1), 4, share(8), 8)
for name in ("HannWindow", "HammingWindow", "BlackmanWindow"):
    case(name, np.array(7), periodic=0)
    case(name, np.array(7))
case("MelWeightMatrix", np.array(5), 32, 8000, number(100.0), number(3000.0))

# Few bits.
BYTES, STEPS, ZEROS = whole(2, 3, 4, low=0).astype(np.uint8), floats(0.1, 0.2, 0.3), np.array([3, 0, 7], np.uint8)
case("QuantizeLinear", real(2, 3, 4), number(0.1), number(3, np.uint8))
case("QuantizeLinear", real(2, 3, 4), STEPS, ZEROS, opsets=(13, NEWEST))
case("QuantizeLinear", real(2, 4, 3), STEPS, ZEROS, axis=-1, opsets=(13, NEWEST))
case("QuantizeLinear", real(2, 3, 4), number(0.1))
case("QuantizeLinear", real(2, 4), share(2, 2), axis=1, block_size=2, opsets=(21, NEWEST))
case("DequantizeLinear", BYTES, number(0.1), number(3, np.uint8))
case("DequantizeLinear", BYTES, STEPS, ZEROS, axis=1, opsets=(13, NEWEST))
case("DequantizeLinear", BYTES.reshape(2, 4, 3), STEPS, ZEROS, axis=-1, opsets=(13, NEWEST))
case("DequantizeLinear", whole(3, 4).astype(np.int32), number(0.1))
case("DequantizeLinear", BYTES[0], share(3, 2), axis=1, block_size=2, opsets=(21, NEWEST))
case("DynamicQuantizeLinear", real(3, 4), outputs=3)
case("MatMulInteger", BYTES, BYTES[0].T, number(2, np.uint8), number(1, np.uint8))
case("ConvInteger", BYTES[None], BYTES[:, :, :, None].transpose(0, 3, 1, 2)[:, :, :2, :2].repeat(2, 1), number(2, np.uint8))
QUANTIZED = (number(0.1), number(2, np.uint8))
case("QLinearMatMul", BYTES, *QUANTIZED, BYTES[0].T.copy(), *QUANTIZED, number(0.5), number(9, np.uint8))
case(
    "QLinearConv",
    BYTES[None],
    *QUANTIZED,
    whole(4, 2, 2, 2, low=0).astype(np.uint8),
    *QUANTIZED,
    number(0.5),
    number(9, np.uint8),
)

# Attention.
QUERY, KEY, VALUE = real(2, 4, 3, 8), real(2, 2, 5, 8), real(2, 2, 5, 6)
case("Attention", QUERY, KEY, VALUE)
case("Attention", QUERY, KEY, VALUE, real(3, 5), scale=0.3, softcap=2.0)
case("Attention", QUERY, KEY, VALUE, real(2, 1, 3, 5) > 0)
case("Attention", QUERY, KEY, VALUE, is_causal=1)
PAST = (real(2, 2, 4, 8), real(2, 2, 4, 6))
case("Attention", QUERY, KEY, VALUE, None, *PAST, outputs=3, is_causal=1)
case("Attention", real(2, 3, 32), real(2, 5, 16), real(2, 5, 12), q_num_heads=4, kv_num_heads=2)
for shown in (0, 1, 2, 3):
    case("Attention", QUERY, KEY, VALUE, real(3, 9), *PAST, outputs=4, qk_matmul_output_mode=shown, softcap=2.0)
case("Attention", QUERY, KEY, VALUE, None, None, None, [5, 3], opsets=(24, NEWEST))
for interleaved in (0, 1):
    case("RotaryEmbedding", real(2, 4, 3, 8), real(2, 3, 4), real(2, 3, 4, seed=1), interleaved=interleaved)
    turn = {"interleaved": interleaved, "num_heads": 4, "rotary_embedding_dim": 4}
    case("RotaryEmbedding", real(2, 3, 32), real(9, 2), real(9, 2, seed=1), [[0, 1, 2], [4, 5, 6]], **turn)

# Losses.
LABELS = [[1, 0, 3, 2, 1], [3, 3, 0, 1, 2]]
for reduction in ("none", "mean", "sum"):
    case("SoftmaxCrossEntropyLoss", real(2, 4, 5), LABELS, share(4), reduction=reduction, ignore_index=3, outputs=2)
    case("NegativeLogLikelihoodLoss", real(2, 4, 5), LABELS, share(4), reduction=reduction)


# Graphs inside, sequences, options, constants.
GRAPHS: list[tuple[str, dict[str, Any], tuple[int, int]]] = []


def graph(text: str, feed: dict[str, Any], opsets: tuple[int, int] = (OLDEST, NEWEST)) -> None:
    """Add a graph to those that are judged, written without its header."""
    GRAPHS.append((text, feed, opsets))


LOOP = """
net (float[3] x, int64 count, bool go) => (float[3] last, float[M,3] rows, int64[M] numbers)
{
    last, rows, numbers = Loop (count, go, x) <body = inner (int64 i, bool held, float[3] before)
        => (bool holds, float[3] after, float[3] row, int64 number)
    {
        holds = Identity (held)
        number = Identity (i)
        real = Cast <to = 1> (i)
        row = Add (before, real)
        after = Add (row, x)
    }>
}
"""
for count, go in ((3, True), (0, True), (3, False)):
    graph(LOOP, {"x": real(3), "count": number(count, np.int64), "go": np.array(go)})
graph(
    """
net (float x, float end) => (float last)
{
    last = Loop (, , x) <body = inner (int64 i, bool held, float before) => (bool holds, float after)
    {
        after = Add (before, before)
        holds = Less (after, end)
    }>
}
""",
    {"x": number(1), "end": number(50)},
)
BRANCHES = """
net (float[2,3] x, bool which) => (float[N,M] y)
{
    y = If (which) <then_branch = yes () => (float[2,3] a) { a = Relu (x) },
        else_branch = no () => (float[A,B] b) { b = OTHER (x) }>
}
"""
for which in (True, False):
    graph(BRANCHES.replace("OTHER", "Neg"), {"x": real(2, 3), "which": np.array(which)})
    graph(BRANCHES.replace("OTHER", "Transpose"), {"x": real(2, 3), "which": np.array(which)}, (11, NEWEST))
SCAN = """
net (float[2] start, float[4,2] x, float[2,4] y) => (float[2] last, float[N,M] rows)
{
    last, rows = Scan <num_scan_inputs = 2, scan_input_axes = [0, PLACE], scan_input_directions = [0, 1],
        scan_output_axes = [PLACE], scan_output_directions = [1], body = inner (float[2] before, float[2] a, float[2] b)
        => (float[2] after, float[2] row)
    {
        row = Mul (before, a)
        after = Add (row, b)
    }> (start, x, y)
}
"""
STREAMS = {"start": real(2), "x": real(4, 2), "y": real(2, 4)}
graph(SCAN.replace("PLACE", "1"), STREAMS)
graph(SCAN.replace("PLACE", "-1"), STREAMS, (11, NEWEST))
graph(
    """
net (float[2,5] x, float[2] z, int64 place) => (float[N] y, int64 n, float[A] one, float[B,C] all)
{
    parts = SplitToSequence <axis = 1, keepdims = 0> (x)
    longer = SequenceInsert (parts, z, place)
    n = SequenceLength (longer)
    one = SequenceAt (longer, place)
    shorter = SequenceErase (longer, place)
    y = ConcatFromSequence <axis = -1> (shorter)
    all = ConcatFromSequence <axis = -1, new_axis = 1> (shorter)
}
""",
    {"x": real(2, 5), "z": real(2), "place": number(-2, np.int64)},
    (11, NEWEST),
)
graph(
    """
net (float[2,5] x, int64[2] sizes, int64 back) => (float[N,M] y, float[P,Q] last)
{
    parts = SplitToSequence <axis = -1> (x, sizes)
    empty = SequenceEmpty ()
    one = SequenceAt (parts, back)
    built = SequenceConstruct (one, x)
    y = ConcatFromSequence <axis = 1> (built)
    longer = SequenceInsert (empty, one)
    last = SequenceAt (longer, back)
}
""",
    {"x": real(2, 5), "sizes": np.array([3, 2]), "back": number(-1, np.int64)},
    (11, NEWEST),
)
graph(
    """
net (float[2,5] x) => (float[N,M] y)
{
    parts = SplitToSequence <axis = 1> (x)
    small = SequenceMap <body = inner (float[2,1] a) => (float[2,1] b) { b = Sigmoid (a) }> (parts)
    y = ConcatFromSequence <axis = 1> (small)
}
""",
    {"x": real(2, 5)},
    (17, NEWEST),
)
graph(
    """
net (float[2] x) => (float[N] y, bool has)
{
    maybe = Optional (x)
    same = Identity (maybe)
    has = OptionalHasElement (same)
    y = OptionalGetElement (same)
}
""",
    {"x": real(2)},
    (16, NEWEST),
)
graph(
    "net (float[2] x) => (bool a, bool b) { a = OptionalHasElement (x) b = OptionalHasElement () }",
    {"x": real(2)},
    (18, NEWEST),
)
graph("net () => (float[2] y) { y = Constant <value = float[2] {1, 2}> () }", {})
graph(
    """
net () => (float a, float[2] b, int64 c, int64[2] d)
{
    a = Constant <value_float = 1.5> ()
    b = Constant <value_floats = [1.5, 2.0]> ()
    c = Constant <value_int = 3> ()
    d = Constant <value_ints = [3, 4]> ()
}
""",
    {},
    (12, NEWEST),
)


def parsed(text: str, opset: int) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>\n{text}')


def kinds_in(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            yield from kinds_in(attribute.g)


def opsets_of(text: str, opsets: tuple[int, int]) -> list[int]:
    """First and last opsets of all versions of the operators of a graph."""
    return sorted({opset for kind in kinds_in(parsed(text, opsets[1]).graph) for opset in ends_of_versions(kind, opsets)})


def runs() -> Iterator[tuple[Case, int, bool]]:
    """Every node at the first opset with all inputs given, at the last with some stored, and at those no other was run at."""
    judged: set[tuple[str, int]] = set()
    for item in CASES:
        opsets = sorted(ends_of_versions(item.kind, item.opsets))
        for opset in opsets:
            if opset == opsets[0] or (item.kind, opset) not in judged:
                judged.add((item.kind, opset))
                yield item, opset, False
        yield item, opsets[-1], True


NODES = list(runs())
WHOLE = [(text, feed, opset) for text, feed, opsets in GRAPHS for opset in opsets_of(text, opsets)]


@pytest.mark.parametrize(("item", "opset", "is_stored"), NODES, ids=[f"{item.kind}-{opset}" for item, opset, _ in NODES])
def test_every_version_means_what_it_means_to_onnxruntime(
    item: Case, opset: int, is_stored: bool, saved: Callable[..., Path]
) -> None:
    assert_agrees(saved(item.net(opset, is_stored=is_stored)), item.feed(is_stored=is_stored))


@pytest.mark.parametrize(("text", "feed", "opset"), WHOLE)
def test_branches_loops_and_sequences_of_every_version_do_too(
    text: str, feed: dict[str, Array], opset: int, saved: Callable[..., Path]
) -> None:
    assert_agrees(saved(parsed(text, opset)), feed)


RANDOM = "numbers are drawn: there is nothing to compare"
TEXT = "text: torch has none"
NO_KERNEL = "onnxruntime has no kernel of this version on the CPU"
NOT_JUDGED = {
    **dict.fromkeys([(f"Random{kind}", version) for kind in ("Normal", "Uniform") for version in (1, 22)], RANDOM),
    **dict.fromkeys([(f"Random{kind}Like", version) for kind in ("Normal", "Uniform") for version in (1, 22)], RANDOM),
    **dict.fromkeys([("Bernoulli", 15), ("Bernoulli", 22), ("Multinomial", 7), ("Multinomial", 22)], RANDOM),
    **dict.fromkeys([("RegexFullMatch", 20), ("StringConcat", 20), ("StringSplit", 20), ("StringNormalizer", 10)], TEXT),
    **dict.fromkeys([("TfIdfVectorizer", 9), ("ImageDecoder", 20)], "of words and files, not of numbers"),
    **dict.fromkeys([("GlobalLpPool", 22), ("MaxRoiPool", 22), ("RoiAlign", 22)], NO_KERNEL),
}


def test_no_version_of_an_operator_is_forgotten() -> None:
    judged = {(item.kind, since(item.kind, opset)) for item, opset, _ in NODES}
    judged |= {(kind, since(kind, opset)) for text, _, opset in WHOLE for kind in kinds_in(parsed(text, opset).graph)}
    kinds = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == "" and not schema.deprecated}
    there = {(kind, version) for kind in kinds for version in ends_of_versions(kind, (OLDEST, NEWEST)).values()}
    assert there - judged <= NOT_JUDGED.keys()
    assert not judged & NOT_JUDGED.keys()


@pytest.mark.parametrize("opset", [9, 10, 11])
def test_the_mask_of_a_dropout_has_the_type_of_the_data_before_opset_10(opset: int, saved: Callable[..., Path]) -> None:
    """Its values are nobody's: onnxruntime gives zeros where the newer versions are defined to give ones."""
    node = Case("Dropout", (real(3, 4),), {}, (OLDEST, 11), 2).net(opset, is_stored=False)
    executor = Executor(shrinkc_ir.load(saved(node)))
    for is_training in (False, True):
        _, mask = executor.train(is_training)({"in0": torch.ones(3, 4)}).values()
        assert mask.dtype == (torch.bool if opset >= 10 else torch.float32)


@pytest.mark.parametrize("opset", [14, 21, 22, NEWEST])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_the_layout_that_onnxruntime_refuses_is_the_usual_one_turned(
    kind: str, gates: int, direction: str, opset: int, saved: Callable[..., Path]
) -> None:
    d, n = 2 if direction == "bidirectional" else 1, 3 if kind == "LSTM" else 2
    states = (real(d, 2, 4), real(d, 2, 4, seed=1))[: n - 1]
    stored = (real(d, gates * 4, 3), real(d, gates * 4, 4), real(d, gates * 8), np.array([5, 3], np.int32))
    attributes = {"hidden_size": 4, "direction": direction}
    usual = Case(kind, (real(5, 2, 3), *stored, *states), attributes, (14, NEWEST), n)
    turned_states = [state.swapaxes(0, 1) for state in states]
    turned = Case(kind, (real(5, 2, 3).swapaxes(0, 1), *stored, *turned_states), {**attributes, "layout": 1}, (14, NEWEST), n)
    y, *ends = reference(saved(usual.net(opset, is_stored=False)), usual.feed(is_stored=False)).values()
    found = outputs_of(saved(turned.net(opset, is_stored=True)), turned.feed(is_stored=True))
    for array, expected in zip(found, [y.transpose(2, 0, 1, 3), *(end.swapaxes(0, 1) for end in ends)], strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER"])
def test_a_transposed_convolution_reaches_its_size_where_strides_are_wider_than_windows(
    padding: str, saved: Callable[..., Path]
) -> None:
    """The size is onnx's, input times stride; onnxruntime leaves out what no window reaches."""
    attributes = {"auto_pad": padding, "strides": [3]}
    item = Case("ConvTranspose", (real(2, 3, 4), real(3, 5, 1)), attributes, (OLDEST, NEWEST), 1)
    path = saved(item.net(OLDEST, is_stored=True))
    (found,), (expected,) = outputs_of(path, item.feed(is_stored=True)), reference(path, item.feed(is_stored=True)).values()
    assert found.shape == (2, 5, 12)
    np.testing.assert_allclose(found[..., 1:-1], expected, rtol=1e-5, atol=1e-6)
    assert not found[..., [0, -1]].any()


def outputs_of(path: Path, feed: dict[str, Array]) -> list[Array]:
    executor = Executor(shrinkc_ir.load(path)).eval()
    with torch.no_grad():
        return [tensor.numpy() for tensor in executor({name: torch.tensor(array) for name, array in feed.items()}).values()]
