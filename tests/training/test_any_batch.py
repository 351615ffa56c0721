"""Models for one sample at a time that are run for many: as exporters write them, and such as must not be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models.builder import Net
from training.lessons import context, convnet, lesson, loaded, pictures, settings

from shrinkc.evidence.data import Data
from shrinkc.log import Silent
from shrinkc.training import any_batch
from shrinkc.training.any_batch import for_any_batch
from shrinkc.training.budget import Budget
from shrinkc.training.executor import Executor
from shrinkc.training.phases import Train
from shrinkc.training.running import trained
from shrinkc.training.samples import Samples
from shrinkc.training.schedules import Constant

STEPS, WIDTH = 6, 8
"""Places of a sequence, and the channels of each."""


def sequences(count: int = 12) -> Data:
    random = np.random.default_rng(0)
    return Data({"x": random.standard_normal((count, STEPS, WIDTH)).astype(np.float32)}, None, "sequences")


def flattened(**attributes: int) -> onnx.ModelProto:
    net = Net()
    x = net.relu(net.conv(net.input("x", [1, STEPS, WIDTH, 1]), STEPS, 4, 1, pads=[0, 0, 0, 0]))
    x = net.op("Reshape", x, net.ints(1, 4 * WIDTH), **attributes)
    net.output(net.op("Gemm", x, net.weight(3, 4 * WIDTH), net.vector(3), transB=1))
    return net.model()


def attention(heads: int = 2) -> onnx.ModelProto:
    """A class token joined to every sample, heads split off and put together, the scores of all heads in one product."""
    net, places = Net(), STEPS + 1
    token = net.const(net.random.standard_normal((1, 1, WIDTH)).astype(np.float32), "token")
    x = net.op("Concat", token, net.input("x", [1, STEPS, WIDTH]), axis=1)
    parts = []
    for _ in range(3):
        part = net.op("Reshape", net.op("MatMul", x, net.weight(WIDTH, WIDTH)), net.ints(1, places, heads, WIDTH // heads))
        part = net.op("Transpose", part, perm=[0, 2, 1, 3])
        parts.append(net.op("Reshape", part, net.ints(heads, places, WIDTH // heads)))
    weights = net.op("Softmax", net.op("MatMul", parts[0], net.op("Transpose", parts[1], perm=[0, 2, 1])), axis=-1)
    x = net.op("Reshape", net.op("MatMul", weights, parts[2]), net.ints(1, heads, places, WIDTH // heads))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3]), net.ints(1, -1))
    net.output(net.op("MatMul", x, net.weight(places * WIDTH, 3)))
    return net.model()


def recurrent(kind: str, gates: int) -> onnx.ModelProto:
    """Steps before samples, the first states stored for one of them."""
    net = Net()
    x = net.op("Transpose", net.input("x", [1, STEPS, WIDTH]), perm=[1, 0, 2])
    states = [net.const(net.random.standard_normal((1, 1, 4)).astype(np.float32)) for _ in range(2 if kind == "LSTM" else 1)]
    weights = [net.weight(1, gates * 4, size) for size in (WIDTH, 4)]
    out, *_ = net.op(kind, x, *weights, net.weight(1, 2 * gates * 4), "", *states, outputs=2, hidden_size=4)
    out = net.op("Transpose", net.op("Reshape", out, net.ints(STEPS, 1, 4)), perm=[1, 0, 2])
    net.output(net.op("Reshape", out, net.ints(-1, STEPS * 4)))
    return net.model()


def resized() -> onnx.ModelProto:
    net = Net()
    x = net.relu(net.conv(net.input("x", [1, STEPS, WIDTH, 1]), STEPS, 4, 1, pads=[0, 0, 0, 0]))
    net.output(net.op("Resize", x, "", "", net.ints(1, 4, 2 * WIDTH, 2), mode="nearest"))
    return net.model()


FREE: dict[str, Callable[[], onnx.ModelProto]] = {
    "flattened": flattened,
    "flattened, no zero copies": lambda: flattened(allowzero=1),
    "attention": attention,
    "LSTM": lambda: recurrent("LSTM", 4),
    "GRU": lambda: recurrent("GRU", 3),
    "resized": resized,
}


def data_for(proto: onnx.ModelProto) -> Data:
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    return Data({"x": sequences().inputs["x"].reshape(12, *shape[1:])}, None, "sequences")


@pytest.mark.parametrize("name", FREE)
def test_many_samples_give_what_each_gives_alone_gradients_included(name: str, tmp_path: Path) -> None:
    model, data = loaded(FREE[name](), tmp_path), data_for(FREE[name]())
    many, single, samples = for_any_batch(model, data), Executor(model).eval(), Samples.of(data)
    assert many is not None
    told = [single(part.inputs) for part in samples.parts(1)]
    for key, value in many(samples.inputs).items():
        torch.testing.assert_close(value, torch.cat([one[key] for one in told]), atol=1e-5, rtol=1e-5)
        value.square().sum().backward()
        torch.cat([one[key] for one in told]).square().sum().backward()
    assert many.trainable().keys() == single.trainable().keys()
    for key, parameter in many.trainable().items():
        torch.testing.assert_close(parameter.grad, single.trainable()[key].grad, atol=1e-3, rtol=1e-4)


def looking_at_each_other() -> onnx.ModelProto:
    """Places of all samples in one sequence: of more than one sample each sees the others."""
    net = Net()
    x = net.op("Reshape", net.input("x", [1, STEPS, WIDTH]), net.ints(-1, WIDTH))
    weights = net.op("Softmax", net.op("MatMul", x, net.op("Transpose", x, perm=[1, 0])), axis=-1)
    net.output(net.op("Reshape", net.op("MatMul", weights, x), net.ints(1, STEPS, WIDTH)))
    return net.model()


def squeezed() -> onnx.ModelProto:
    net = Net()
    x = net.op("Squeeze", net.input("x", [1, STEPS, WIDTH]), net.ints(0))
    net.output(net.op("Unsqueeze", net.op("MatMul", x, net.weight(WIDTH, 3)), net.ints(0)))
    return net.model()


def without_rows() -> onnx.ModelProto:
    net = Net()
    x = net.op("MatMul", net.input("x", [1, STEPS, WIDTH]), net.weight(WIDTH, 3))
    net.output(net.op("Transpose", x, perm=[1, 0, 2]))
    return net.model()


def of_four() -> onnx.ModelProto:
    proto = flattened()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    return proto


def of_any() -> onnx.ModelProto:
    proto = without_rows()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return proto


def broken() -> onnx.ModelProto:
    net = Net()
    net.output(net.op("Reshape", net.input("x", [1, STEPS, WIDTH]), net.ints(1, 7)))
    return net.model()


@pytest.mark.parametrize("proto", [looking_at_each_other, squeezed, without_rows, of_four, of_any, broken])
def test_models_that_give_something_else_for_many_or_take_them_anyway_are_left_alone(
    proto: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    assert for_any_batch(loaded(proto(), tmp_path), data_for(proto())) is None


@pytest.mark.parametrize("shown", [[0], [0, 0, 0]])
def test_samples_that_are_alike_do_not_tell_what_many_are_given(shown: list[int], tmp_path: Path) -> None:
    model, data = loaded(looking_at_each_other(), tmp_path), sequences()
    assert for_any_batch(model, data.take(np.array(shown))) is None
    assert for_any_batch(loaded(attention(), tmp_path), data.take(np.array(shown))) is None
    assert for_any_batch(loaded(attention(), tmp_path), data) is not None


def test_models_whose_values_would_take_too_much_memory_for_many_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input has 48 numbers, the first layer, its rectification and the reshape 32 each, the output 3; weights add none."""
    model, data = loaded(flattened(), tmp_path), data_for(flattened())
    bytes_of_one = 4 * (STEPS * WIDTH + 3 * 4 * WIDTH + 3)
    monkeypatch.setattr(any_batch, "MOST_BYTES", any_batch.AT_ONCE * bytes_of_one)
    assert for_any_batch(model, data) is not None
    monkeypatch.setattr(any_batch, "MOST_BYTES", any_batch.AT_ONCE * bytes_of_one - 1)
    assert for_any_batch(model, data) is None


def test_a_value_inside_that_is_another_for_many_samples_keeps_the_model_single(tmp_path: Path) -> None:
    net = Net()
    x = net.op("MatMul", net.input("x", [1, STEPS, WIDTH]), net.weight(WIDTH, 3))
    net.output(net.op("Transpose", turned := net.op("Transpose", x, perm=[1, 0, 2]), perm=[1, 0, 2]))
    model = loaded(net.model(), tmp_path)
    assert for_any_batch(model, sequences(), [x]) is not None
    assert for_any_batch(model, sequences(), [turned]) is None


def single(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The network of a free batch as it is exported for one image."""
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    flatten = next(node for node in proto.graph.node if node.op_type == "Flatten")
    channels = proto.graph.initializer[-2].dims[1]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, channels]), "flat"))
    flatten.op_type = "Reshape"
    flatten.input.append("flat")
    return proto


def test_a_model_for_one_image_learns_what_the_one_for_any_number_does_statistics_included(tmp_path: Path) -> None:
    found = []
    for change in (single, lambda proto: proto):
        what = lesson(loaded(change(convnet()), tmp_path), pictures(), loaded(change(convnet(1)), tmp_path))
        made = context(what, batch_norm="batch")
        assert made.feeder.unit is None
        assert made.feeder.teacher is not None
        assert made.feeder.teacher.unit is None
        Train(Budget(5, "steps"), Constant(0.1), keeps_best=False).run(made)
        found.append({name: tensor.detach().clone() for name, tensor in made.tensors.items()})
        statistics = made.executor.statistics()
        assert any(not torch.equal(value, Executor(what.student).tensor(name)) for name, value in statistics.items())
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-5, rtol=1e-4)


def test_what_was_trained_so_is_the_model_that_was_given_with_other_weights(tmp_path: Path) -> None:
    what = lesson(loaded(single(convnet()), tmp_path), pictures(), loaded(single(convnet(1)), tmp_path))
    before = [(node.op_type, node.domain, [value.name for value in node.inputs if value]) for node in what.student.graph]
    result = trained(replace(what), settings(), Silent())
    after = [(node.op_type, node.domain, [value.name for value in node.inputs if value]) for node in result.model.graph]
    assert before == after
    assert result.model.graph.inputs[0].shape[0] == 1
    assert result.after.loss < result.before.loss
