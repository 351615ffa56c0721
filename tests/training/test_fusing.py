"""Nodes that run together give what they give one by one, and so do their gradients."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper, parser
from torch.nn import functional as F

from shrinkc.training.executor import Executor

NORMALIZED = """
<ir_version: 8, opset_import: ["": 17]>
net (double[N,4,6,6] x{inputs}) => (double[N,6,H,W] y)
<double[6,2,3,3] w, double[6] b, double[6] scale, double[6] shift{stored}>
{{
    inner = Conv <group = 2, pads = [1, 1, 1, 1], strides = [2, 2]> (x, w{bias})
    y = BatchNormalization <epsilon = 0.001> (inner, scale, shift, mean, var)
}}
"""


def filled(text: str) -> Executor:
    """Executor of a model whose declared weights are drawn."""
    proto, draw = parser.parse_model(text), np.random.default_rng(0)
    for info in proto.graph.value_info:
        kind = info.type.tensor_type
        shape = [size.dim_value for size in kind.shape.dim]
        array = (draw.random(shape) + 0.5).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        proto.graph.initializer.append(numpy_helper.from_array(array, info.name))
    del proto.graph.value_info[:]
    return Executor(ir.from_proto(proto))


def normalized(*, has_bias: bool, stored: str = ", double[6] mean, double[6] var", inputs: str = "") -> Executor:
    """Convolution and normalisation, the statistics stored or given."""
    return filled(NORMALIZED.format(bias=", b" if has_bias else "", stored=stored, inputs=inputs))


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(executor: Executor, x: torch.Tensor, *, also: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Output, and gradients to input and parameters."""
    executor.zero_grad()
    x = x.clone().requires_grad_()
    y = executor({"x": x}, also=also)["y"]
    y.square().sum().backward()
    assert x.grad is not None
    own = {name: tensor.grad for name, tensor in executor.trainable().items() if tensor.grad is not None}
    return {"y": y.detach(), "x": x.grad, **{name: tensor.clone() for name, tensor in own.items()}}


def is_fused(executor: Executor) -> bool:
    return "inner" not in executor._fused.program.slots


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("trains", [True, False])
def test_a_normalized_convolution_is_the_two_one_after_the_other(has_bias: bool, trains: bool) -> None:
    executor = normalized(has_bias=has_bias).train(trains)
    assert is_fused(executor)
    start = {key: tensor.clone() for key, tensor in executor.state_dict().items()}
    together = gradients(executor, images(), also=())
    moved = {key: tensor.clone() for key, tensor in executor.state_dict().items()}
    executor.load_state_dict(start)
    apart = gradients(executor, images(), also=("inner",))
    assert {"x", "y", "w", "scale", "shift"} | ({"b"} if has_bias else set()) <= together.keys()
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved, executor.state_dict())
    assert any(not torch.equal(moved[key], start[key]) for key in start) == trains


def test_statistics_that_are_computed_get_their_gradients() -> None:
    executor = normalized(has_bias=True, stored="", inputs=", double[6] mean, double[6] var").eval()
    given = {"x": images(), "mean": torch.rand(6, dtype=torch.float64), "var": torch.rand(6, dtype=torch.float64) + 1}
    found = []
    for also in ((), ("inner",)):
        inputs = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
        executor(inputs, also=also)["y"].square().sum().backward()
        found.append({name: tensor.grad for name, tensor in inputs.items()})
    assert is_fused(executor)
    assert all(tensor is not None and tensor.abs().max() > 0 for tensor in found[0].values())
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_a_convolution_that_others_read_too_stays_by_itself() -> None:
    text = NORMALIZED.format(bias="", stored=", double[6] mean, double[6] var", inputs="")
    text = text.replace("=> (double[N,6,H,W] y)", "=> (double[N,6,H,W] y, double[N,6,H,W] z)").replace(
        "}\n", "z = Relu (inner) }\n"
    )
    executor = filled(text).eval()
    found = executor({"x": images()})
    assert not is_fused(executor)
    torch.testing.assert_close(found["z"], F.conv2d(images(), executor.tensor("w"), None, 2, 1, 1, 2).relu())


def test_a_node_that_normalizes_by_the_batch_in_any_case_stays_by_itself() -> None:
    text = NORMALIZED.format(bias="", stored=", double[6] mean, double[6] var", inputs="")
    executor = filled(text.replace("<epsilon = 0.001>", "<epsilon = 0.001, training_mode = 1>")).eval()
    found = executor({"x": images()})["y"]
    assert not is_fused(executor)
    spread = executor({"x": images()}, also=("inner",))["inner"].var((0, 2, 3), correction=0)
    scale, shift = executor.tensor("scale"), executor.tensor("shift")
    torch.testing.assert_close(found.mean((0, 2, 3)), shift.detach())
    torch.testing.assert_close(found.var((0, 2, 3), correction=0), scale.detach() ** 2 * spread / (spread + 0.001))


def test_half_precision_is_normalized_with_more_digits() -> None:
    text = NORMALIZED.format(bias="", stored=", float16[6] mean, float16[6] var", inputs="").replace("double", "float16")
    executor, x = filled(text).eval(), images().half()
    torch.testing.assert_close(executor({"x": x})["y"], executor({"x": x}, also=("inner",))["y"], rtol=0, atol=0)


DEPTHWISE = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,8,9,9] x) => (float[N,8,H,W] y)
<float[8,1,{kernel},{kernel}] w>
{{
    y = Conv <group = 8, kernel_shape = [{kernel}, {kernel}], strides = [{stride}, {stride}]> (x, w)
}}
"""


@pytest.mark.parametrize(("kernel", "stride", "is_exact"), [(3, 2, True), (5, 1, True), (3, 1, False)])
def test_groups_that_bfloat16_is_slow_with_are_computed_in_float32(kernel: int, stride: int, is_exact: bool) -> None:
    executor = filled(DEPTHWISE.format(kernel=kernel, stride=stride))
    x = torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(1))
    w = executor.tensor("w")
    with torch.autocast("cpu", torch.bfloat16):
        made = executor({"x": x})["y"]
    made.float().sum().backward()
    expected = F.conv2d(x, w, None, stride, 0, 1, 8)
    assert made.dtype == torch.bfloat16
    assert w.grad is not None
    assert w.grad.dtype == torch.float32
    torch.testing.assert_close(made.float(), expected, rtol=0.02, atol=0.1)
    assert torch.equal(made, expected.bfloat16()) == is_exact
    torch.testing.assert_close(executor({"x": x})["y"], expected)
