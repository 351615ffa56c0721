"""Operators come in by entry points, by opset version, third parties' like our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from models.builder import Net

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.errors import PluginError
from shrinkc.training import lookup
from shrinkc.training.executor import Executor
from shrinkc.training.ops.call import Call, Function, OpTable


def scaled_relu(call: Call) -> Function:
    factor = call.number("factor", 1.0)
    return lambda x: factor * torch.relu(x)


ACME: OpTable = {("com.acme", "ScaledRelu"): {1: scaled_relu}}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[OpTable], None]]:
    """Make a table one of the plug-ins, for the length of a test."""
    names, load = registry.names("torch_ops"), registry.load

    def put(table: OpTable) -> None:
        monkeypatch.setattr(registry, "names", lambda group: [*names, "acme"])
        monkeypatch.setattr(registry, "load", lambda group, name: table if name == "acme" else load(group, name))
        lookup.operators.cache_clear()

    yield put
    lookup.operators.cache_clear()


def test_an_operator_of_a_package_runs_and_trains(install: Callable[[OpTable], None], saved: Callable[..., Path]) -> None:
    install(ACME)
    net = Net()
    net.domains["com.acme"] = 1
    x = net.op("MatMul", net.input("x", [2, 3]), net.weight(3, 3, name="w"))
    net.output(str(net.op("ScaledRelu", x, domain="com.acme", factor=3.0)))
    executor, x = Executor(shrinkc_ir.load(saved(net))), torch.ones(2, 3)
    y = executor({"x": x})[executor.output_names[0]]
    torch.testing.assert_close(y, 3 * torch.relu(x @ executor.tensor("w")))
    y.sum().backward()
    assert executor.tensor("w").grad is not None


def test_an_operator_that_is_there_already_is_refused(install: Callable[[OpTable], None]) -> None:
    install({("", "Relu"): {1: scaled_relu}})
    with pytest.raises(PluginError, match="one operator"):
        lookup.operators()


@pytest.mark.parametrize(("version", "axis_of_sum"), [(11, (1, 2)), (13, (2,))])
def test_the_opset_decides_what_an_operator_means(
    version: int, axis_of_sum: tuple[int, ...], saved: Callable[..., Path]
) -> None:
    net = Net(opset=version)
    net.output(str(net.op("Softmax", net.input("x", [2, 3, 4]))))
    executor = Executor(ir.load(saved(net)))
    y = executor({"x": torch.randn(2, 3, 4)})[executor.output_names[0]]
    torch.testing.assert_close(y.sum(axis_of_sum), torch.ones_like(y.sum(axis_of_sum)))
