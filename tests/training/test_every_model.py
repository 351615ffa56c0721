"""Every model of ``tests/models`` on the executor: onnxruntime's outputs, and the same file if nothing was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from models import torch_convolutional, torch_dense, torch_transformers
from models.attention_topologies import ATTENTION
from models.export_topologies import EXPORTED
from models.operator_topologies import OPERATOR_TOPOLOGIES
from models.topologies import TOPOLOGIES
from models.torch_networks import NETWORKS, example, export

from shrinkc import ir as shrinkc_ir
from shrinkc.feeding import random_input
from shrinkc.shapes import input_shapes, real_inputs
from shrinkc.training.executor import Executor

# Imported for what they register.
assert torch_convolutional
assert torch_dense
assert torch_transformers

MODELS = {**TOPOLOGIES, **OPERATOR_TOPOLOGIES, **ATTENTION, **EXPORTED}


def reference(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of onnxruntime without its own fusions."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def random_feed(path: Path) -> dict[str, np.ndarray]:
    model = shrinkc_ir.load(path)
    shapes, generator = input_shapes(model), np.random.default_rng(0)
    return {value.name or "": random_input(value, shapes[value.name or ""], generator) for value in real_inputs(model)}


def assert_agrees(path: Path, feed: dict[str, np.ndarray] | None = None) -> None:
    feed = feed or random_feed(path)
    executor = Executor(shrinkc_ir.load(path)).eval()
    with torch.no_grad():
        found = executor({name: torch.from_numpy(array) for name, array in feed.items()})
    for name, expected in reference(path, feed).items():
        array = found[name].numpy()
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype), name
        tolerance = 1e-3 if expected.dtype == np.float16 else 1e-5
        scale = np.abs(expected).max(initial=0) if expected.dtype.kind == "f" else 1
        np.testing.assert_allclose(array, expected, rtol=tolerance, atol=tolerance * scale, err_msg=name)


NOT_JUDGED = {"function_that_passes_through", "function_that_stays", "unknown_operator"}
"""Not loaded by onnxruntime, or (the second) read by it at the model's opset instead of the function's own."""

NOT_RUN_BY_TORCH = {"unknown_operator"}


@pytest.mark.parametrize("name", sorted(MODELS.keys() - NOT_JUDGED))
def test_outputs_are_those_of_onnxruntime(name: str, saved: Callable[..., Path]) -> None:
    assert_agrees(saved(MODELS[name]()))


@pytest.mark.parametrize("name", sorted(MODELS.keys() - NOT_RUN_BY_TORCH))
def test_an_untrained_model_is_written_as_it_was(name: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    path = saved(MODELS[name]())
    shrinkc_ir.save(shrinkc_ir.load(path), tmp_path / "loaded.onnx")
    shrinkc_ir.save(Executor(shrinkc_ir.load(path)).write_back(), tmp_path / "executed.onnx")
    assert (tmp_path / "executed.onnx").read_bytes() == (tmp_path / "loaded.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_exported_networks_are_those_of_onnxruntime(name: str, exporter: str, tmp_path: Path) -> None:
    path = export(name, exporter, tmp_path / "model.onnx")
    torch.manual_seed(1)
    arrays = [tensor.numpy() for tensor in example(NETWORKS[name].inputs)]
    assert_agrees(path, dict(zip(NETWORKS[name].inputs, arrays, strict=True)))
