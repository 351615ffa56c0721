"""Folded BatchNormalization opened for training, and folded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from models.builder import Net
from training.lessons import lesson, settings

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import RecipeError
from shrinkc.evidence.data import Data
from shrinkc.log import Silent
from shrinkc.training.batch_norms import channel_statistics, fold_batch_norms, open_batch_norms, openable
from shrinkc.training.executor import Executor
from shrinkc.training.running import trained


@pytest.fixture
def model(saved: Callable[..., Path]) -> ir.Model:
    """Two convolutions with biases, as exporters leave them, a third that shares its weight with a fourth."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["n", 3, 6, 6]), 3, 8))
    x = net.relu(net.conv(x, 8, 8, group=8))
    shared, bias = net.weight(8, 8, 1, 1), net.vector(8)
    x = str(net.op("Conv", net.op("Conv", x, shared, bias), shared, bias))
    net.output(net.head(x, 8))
    return shrinkc_ir.load(saved(net))


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return {"x": torch.from_numpy(np.random.default_rng(0).standard_normal((16, 3, 6, 6)).astype(np.float32))}


def outputs(executor: Executor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(iter(executor(batch).values())).detach()


def opened(model: ir.Model, batch: dict[str, torch.Tensor]) -> tuple[str, ...]:
    return open_batch_norms(model, channel_statistics(Executor(model), [batch], openable(model)))


def test_opening_changes_nothing_in_inference(model: ir.Model, batch: dict[str, torch.Tensor]) -> None:
    before = outputs(Executor(model).eval(), batch)
    assert len(opened(model, batch)) == 2  # those whose weights are shared stay
    torch.testing.assert_close(outputs(Executor(model).eval(), batch), before, rtol=1e-5, atol=1e-5)


def test_with_statistics_of_the_data_training_starts_where_the_network_was(
    model: ir.Model, batch: dict[str, torch.Tensor]
) -> None:
    before = outputs(Executor(model).eval(), batch)
    opened(model, batch)
    torch.testing.assert_close(outputs(Executor(model).train(), batch), before, rtol=1e-4, atol=1e-4)


def test_statistics_are_those_of_the_channels(model: ir.Model, batch: dict[str, torch.Tensor]) -> None:
    halves = [{"x": batch["x"][:6]}, {"x": batch["x"][6:]}]
    (mean, variance) = channel_statistics(Executor(model), halves, ["conv0"])["conv0"]
    value = Executor(model)(batch, also=["conv0"])["conv0"].detach().double()
    np.testing.assert_allclose(mean, value.mean((0, 2, 3)).numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(variance, value.var((0, 2, 3), correction=0).numpy(), rtol=1e-5)


def test_scale_and_shift_train_and_are_folded_without_a_change_of_the_outputs(
    model: ir.Model, batch: dict[str, torch.Tensor]
) -> None:
    nodes, names = [node.op_type for node in model.graph], set(model.graph.initializers)
    convolutions = opened(model, batch)
    executor = Executor(model).train()
    assert {"conv0.scale", "conv0.shift"} <= executor.trainable().keys()
    optimizer = torch.optim.SGD(executor.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        next(iter(executor(batch).values())).square().mean().backward()
        optimizer.step()
    trained = outputs(executor.eval(), batch)
    executor.write_back()
    assert fold_batch_norms(model, convolutions) == convolutions
    assert [node.op_type for node in model.graph] == nodes
    assert set(model.graph.initializers) == names
    torch.testing.assert_close(outputs(Executor(model).eval(), batch), trained, rtol=1e-4, atol=1e-5)


def test_opened_and_folded_is_what_it_was(model: ir.Model, batch: dict[str, torch.Tensor]) -> None:
    before = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
    fold_batch_norms(model, opened(model, batch))
    for name, value in model.graph.initializers.items():
        np.testing.assert_allclose(value.const_value.numpy(), before[name], rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("norms", ["given", "refolded", "opened"])
def test_a_setting_opens_what_an_exporter_folded_and_folds_it_again(model: ir.Model, norms: str) -> None:
    """Training moves the weights either way; the graph that comes out is the one that came unless it shall stay open."""
    nodes = [node.op_type for node in model.graph]
    images = np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32)
    data = Data({"x": images}, np.arange(64) % 5, "images")
    before = outputs(Executor(model).eval(), {"x": torch.from_numpy(images)})
    made = trained(lesson(model, data), settings(teacher="none", norms=norms, batch_norm="batch", budget="6steps"), Silent())
    n_open = sum(node.op_type == "BatchNormalization" for node in made.model.graph)
    assert n_open == (2 if norms == "opened" else 0)
    assert [node.op_type for node in made.model.graph if node.op_type != "BatchNormalization"] == nodes
    again = outputs(Executor(made.model).eval(), {"x": torch.from_numpy(images)})
    assert made.context.evaluate().loss == pytest.approx(made.after.loss)
    assert (again - before).abs().max() > 1e-3


def test_a_model_without_folded_normalisations_has_none_to_open(saved: Callable[..., Path]) -> None:
    net = Net()
    net.output(net.head(net.relu(net.conv(net.input("x", ["n", 3, 6, 6]), 3, 8, bias=False)), 8))
    data = Data({"x": np.zeros((64, 3, 6, 6), np.float32)}, np.zeros(64, np.int64), "images")
    with pytest.raises(RecipeError, match="could be opened"):
        trained(lesson(shrinkc_ir.load(saved(net)), data), settings(teacher="none", norms="refolded"), Silent())
