"""What an operator rule refuses it refuses with a sentence, and the rest of the model is still pruned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from models.builder import Net
from models.topologies import start
from onnx import TensorProto, helper

import shrinkc

Build = Callable[[Net, str], str]

REFUSED: dict[str, tuple[Build, str]] = {}


def refused(reason: str) -> Callable[[Build], Build]:
    def note(build: Build) -> Build:
        REFUSED[build.__name__] = build, reason
        return build

    return note


def floats(net: Net, x: str) -> str:
    return str(net.op("Cast", x, to=TensorProto.FLOAT))


@refused("it picks the largest channels")
def top_channels(net: Net, y: str) -> str:
    return str(net.op("TopK", y, net.ints(4), outputs=2, axis=1)[0])


@refused("it computes the position of a channel")
def position_of_a_channel(net: Net, y: str) -> str:
    return floats(net, net.op("ArgMax", y, axis=1))


@refused("channels are picked element by element")
def elements_of_channels(net: Net, y: str) -> str:
    return str(net.op("GatherElements", y, net.const(np.zeros((1, 8, 6, 6), np.int64)), axis=1))


@refused("channels are overwritten element by element")
def overwritten_elements(net: Net, y: str) -> str:
    places = net.const(np.ones((1, 8, 6, 6), np.int64))
    return str(net.op("ScatterElements", y, places, net.relu(y), axis=1, reduction="add"))


@refused("a single channel is overwritten")
def one_channel(net: Net, y: str) -> str:
    written = net.const(np.ones((1, 1, 6, 6), np.float32))
    turned = net.op("Transpose", y, perm=[1, 0, 2, 3])
    return str(net.op("Transpose", net.op("ScatterND", turned, net.const(np.asarray([[3]])), written), perm=[1, 0, 2, 3]))


@refused("the positions are computed")
def positions_from_the_data(net: Net, y: str) -> str:
    turned = net.op("Transpose", y, perm=[1, 0, 2, 3])
    level = net.op("Sigmoid", net.op("ReduceMean", net.inputs[0].name, axes=[0, 1, 2, 3]))
    places = net.op("Reshape", net.op("Cast", net.op("Round", level), to=TensorProto.INT64), net.ints(1, 1))
    written = net.op("ScatterND", turned, places, net.const(np.ones((1, 1, 6, 6), np.float32)))
    return str(net.op("Transpose", written, perm=[1, 0, 2, 3]))


@refused("it reverses the order of channels")
def reversed_channels(net: Net, y: str) -> str:
    return str(net.op("ReverseSequence", y, net.ints(4), time_axis=1, batch_axis=0))


@refused("channels lie on the triangle that it cuts out")
def triangle_of_channels(net: Net, y: str) -> str:
    turned = net.op("Transpose", y, perm=[0, 2, 3, 1])
    return str(net.op("Transpose", net.op("Trilu", turned), perm=[0, 3, 1, 2]))


@refused("the indices of the maxima are used")
def unpooled(net: Net, y: str) -> str:
    small, places = net.op("MaxPool", y, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    return str(net.op("MaxUnpool", small, places, kernel_shape=[2, 2], strides=[2, 2]))


@refused("it normalises over neighbouring channels")
def neighbours(net: Net, y: str) -> str:
    return str(net.op("LRN", y, size=3))


@refused("how much it gives depends on the data")
def places_of_nonzeros(net: Net, y: str) -> str:
    return floats(net, net.op("ReduceSum", net.op("NonZero", y), net.ints(0, 1), keepdims=1))


@refused("channels are not followed through a sequence of tensors")
def sequence_of_parts(net: Net, y: str) -> str:
    parts = net.op("SplitToSequence", y, net.ints(4, 4), axis=1)
    return str(net.op("SequenceAt", parts, net.const(np.int64(1))))


@refused("channels are not followed through a sequence of tensors")
def sequence_and_back(net: Net, y: str) -> str:
    items = net.op("SequenceInsert", net.op("SequenceConstruct", y, net.relu(y)), y)
    return str(net.op("ConcatFromSequence", items, axis=1))


@refused("channels are not followed through an optional value")
def optional_value(net: Net, y: str) -> str:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 8, 6, 6])
    return str(net.op("OptionalGetElement", net.op("Optional", y, type=kind)))


@refused("a mask picks channels")
def channels_by_mask(net: Net, y: str) -> str:
    return str(net.op("Compress", y, net.const(np.arange(8) % 2 == 0), axis=1))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_followed_stays_with_a_sentence(name: str, saved: Callable[[Net], Path], tmp_path: Path) -> None:
    build, reason = REFUSED[name]
    net, x = start(size=6)
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    net.output(build(net, net.cbr(x, 3, 8)))
    net.output(net.head(net.cbr(net.cbr(x, 3, 10), 10, 6), 6))
    report = shrinkc.compress(saved(net), output=tmp_path / "out.onnx", prune_ratio=0.5, round_to=1, measure_latency=False)
    assert report.proof is not None
    assert any(refusal.blocker.reason.startswith(reason) for refusal in report.refusals)
    assert sorted(row.channels_after for row in report.groups) == [3, 5]
