"""The executor: the graph's own names, its gradients, its state, and weights written back into the same graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from models.builder import Net
from torch.nn import functional as F

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import UnsupportedGraphError
from shrinkc.training.executor import Executor


def small_net() -> Net:
    """Convolution, batch norm, a residual, a classifier; names as exporters write them."""
    net = Net()
    x = net.input("image", ["batch", 3, 8, 8])
    x = str(net.op("Conv", x, net.weight(4, 3, 3, 3, name="stem.conv.weight"), pads=[1] * 4))
    statistics = [net.vector(4, "stem.bn.weight"), net.vector(4, "stem.bn.bias")]
    x = str(net.op("BatchNormalization", x, *statistics, net.const(np.zeros(4, np.float32), "mean"), net.positive(4)))
    x = net.relu(x)
    x = str(net.op("Add", x, net.op("Conv", x, net.weight(4, 4, 3, 3), net.vector(4), pads=[1] * 4)))
    x = str(net.op("Clip", x, net.const(np.float32(-3)), net.const(np.float32(3))))
    net.output(net.head(x, 4))
    return net


def executor_of(net: Net, saved: Callable[..., Path], **options: object) -> Executor:
    return Executor(shrinkc_ir.load(saved(net)), **options)  # type: ignore[arg-type]


@pytest.fixture
def image() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32))


def test_outputs_are_those_of_onnxruntime(saved: Callable[..., Path], image: torch.Tensor) -> None:
    path = saved(small_net())
    executor = Executor(shrinkc_ir.load(path)).eval()
    expected = ort.InferenceSession(str(path)).run(None, {"image": image.numpy()})[0]
    found = executor({"image": image})[executor.output_names[0]]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_parameters_carry_the_names_of_their_initializers(saved: Callable[..., Path]) -> None:
    executor = executor_of(small_net(), saved)
    assert {"stem.conv.weight", "stem.bn.weight", "stem.bn.bias"} <= executor.trainable().keys()
    assert {"stem.conv.weight", "mean"} <= executor.state_dict().keys()
    assert "mean" not in executor.trainable()
    assert executor.trainable().keys() == dict(executor.named_parameters()).keys()


@pytest.mark.parametrize("name", ["a.b", "a", "a..b", "onnx::Conv_1", "forward", "%x", "0.weight"])
def test_any_name_becomes_a_key_of_its_own_and_is_found_again(name: str, saved: Callable[..., Path]) -> None:
    net = Net()
    x = net.input("x", [2, 3])
    for each in {name, "a.b.c"}:
        x = str(net.op("Gemm", x, net.weight(3, 3, name=each)))
    net.output(x)
    executor = executor_of(net, saved)
    assert executor.trainable().keys() == {name, "a.b.c"}
    assert len(executor.state_dict()) == 2
    other = executor_of(net, saved)
    other.load_state_dict({key: tensor + 1 for key, tensor in executor.state_dict().items()})
    torch.testing.assert_close(other.tensor(name), executor.tensor(name) + 1)


def test_what_was_not_trained_is_written_back_bit_for_bit(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = saved(small_net())
    shrinkc_ir.save(shrinkc_ir.load(path), tmp_path / "loaded.onnx")
    shrinkc_ir.save(Executor(shrinkc_ir.load(path)).write_back(), tmp_path / "executed.onnx")
    assert (tmp_path / "executed.onnx").read_bytes() == (tmp_path / "loaded.onnx").read_bytes()


def test_only_the_changed_tensor_is_replaced(saved: Callable[..., Path], image: torch.Tensor) -> None:
    model = shrinkc_ir.load(saved(small_net()))
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    executor = Executor(model)
    with torch.no_grad():
        executor.tensor("stem.conv.weight").mul_(2)
    assert executor.write_back() is model
    changed = {name for name, value in model.graph.initializers.items() if value.const_value is not before[name]}
    assert changed == {"stem.conv.weight"}
    again = Executor(model).eval()({"image": image})
    torch.testing.assert_close(again, executor.eval()({"image": image}))


def test_half_precision_stays_half_precision(saved: Callable[..., Path]) -> None:
    net = Net(dtype=np.float16)
    net.output(str(net.op("MatMul", net.input("x", [2, 3]), net.weight(3, 4, name="w"))))
    executor = executor_of(net, saved)
    with torch.no_grad():
        executor.tensor("w").add_(1)
    assert executor.write_back().graph.initializers["w"].const_value.dtype == ir.DataType.FLOAT16  # type: ignore[union-attr]


def test_gradients_are_those_of_the_same_network_written_by_hand(saved: Callable[..., Path], image: torch.Tensor) -> None:
    executor = executor_of(small_net(), saved).train()
    executor({"image": image})[executor.output_names[0]].square().sum().backward()
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in executor.trainable().items()}
    w = list(weights.values())
    names = list(weights)
    x = F.conv2d(image, weights["stem.conv.weight"], padding=1)
    x = F.relu(F.batch_norm(x, None, None, weights["stem.bn.weight"], weights["stem.bn.bias"], True))
    rest = [tensor for name, tensor in zip(names, w, strict=True) if not name.startswith("stem")]
    x = (x + F.conv2d(x, rest[0], rest[1], padding=1)).clamp(-3, 3)
    F.linear(x.mean((2, 3)), rest[2], rest[3]).square().sum().backward()
    for name, tensor in executor.trainable().items():
        torch.testing.assert_close(tensor.grad, weights[name].grad, rtol=1e-4, atol=1e-5)


def test_running_statistics_follow_the_batch_in_training_alone(saved: Callable[..., Path], image: torch.Tensor) -> None:
    executor = executor_of(small_net(), saved)
    before = executor.tensor("mean").clone()
    executor.eval()({"image": image})
    assert torch.equal(executor.tensor("mean"), before)
    executor.train()({"image": image})
    channels = F.conv2d(image, executor.tensor("stem.conv.weight"), padding=1).mean((0, 2, 3))
    torch.testing.assert_close(executor.tensor("mean"), 0.9 * before + 0.1 * channels.detach())


def test_given_weights_take_the_place_of_stored_ones_with_their_gradients(
    saved: Callable[..., Path], image: torch.Tensor
) -> None:
    executor = executor_of(small_net(), saved).eval()
    weight = executor.tensor("stem.conv.weight")
    mask = (torch.arange(weight.numel()).reshape(weight.shape) % 2).float()
    masked = weight * mask
    masked.retain_grad()
    executor({"image": image}, weights={"stem.conv.weight": masked})[executor.output_names[0]].sum().backward()
    assert masked.grad is not None
    assert (masked.grad != 0).all()
    torch.testing.assert_close(weight.grad, masked.grad * mask)
    with pytest.raises(KeyError, match="no parameter"):
        executor({"image": image}, weights={"no.such": masked})


def test_inner_values_are_returned_on_request(saved: Callable[..., Path], image: torch.Tensor) -> None:
    executor = executor_of(small_net(), saved).eval()
    found = executor({"image": image}, also=["conv0", "relu2"])
    torch.testing.assert_close(found["conv0"], F.conv2d(image, executor.tensor("stem.conv.weight"), padding=1))
    assert found["relu2"].min() >= 0
    assert next(iter(found)) == executor.output_names[0]


def test_sizes_bounds_and_scales_are_not_trainable(saved: Callable[..., Path]) -> None:
    net = Net()
    x = net.input("x", [2, 3])
    x = str(net.op("Reshape", x, net.ints(3, 2)))
    x = str(net.op("Pow", x, net.const(np.full((1, 2), 2, np.float32), "exponent")))
    x = str(net.op("Mul", x, net.const(np.full(2, 2, np.float32), "scale")))
    x = str(net.op("Add", x, net.const(np.float32(1), "one")))
    x = str(net.op("Gemm", x, net.weight(2, 1, name="w"), net.const(np.ones(1, np.float32), "b")))
    net.output(x)
    assert executor_of(net, saved).trainable().keys() == {"scale", "w", "b"}
    assert executor_of(net, saved, is_trainable=lambda value: value.name == "w").trainable().keys() == {"w"}


def test_unknown_operators_name_themselves_and_the_nodes_that_need_them(saved: Callable[..., Path]) -> None:
    net = Net()
    net.domains["com.acme"] = 1
    x = net.op("ScaledRelu", net.input("x", [2, 3]), domain="com.acme")
    net.output(str(net.op("Twist", x, domain="com.acme")))
    with pytest.raises(UnsupportedGraphError, match=r"com.acme::ScaledRelu \(ScaledRelu_0\); com.acme::Twist \(Twist_1\)"):
        executor_of(net, saved)


@pytest.mark.parametrize("size", [4, 7])
def test_sizes_may_vary_from_one_call_to_the_next(size: int, saved: Callable[..., Path]) -> None:
    net = Net()
    x = net.input("x", ["n", "length", 6])
    shape = net.op("Concat", net.op("Gather", net.op("Shape", x), net.ints(1)), net.ints(-1), axis=0)
    net.output(str(net.op("Reshape", x, shape)))
    executor = executor_of(net, saved)
    for batch in (1, 3):
        assert executor({"x": torch.zeros(batch, size, 6)})[executor.output_names[0]].shape == (size, batch * 6)
