"""Models of exporters that put weights into Constant nodes, as Paddle's does, train like others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from training.lessons import blobs, convnet, in_constants, lesson, loaded, mlp, pictures, settings

import shrinkc
import shrinkc.torch
from shrinkc.errors import RecipeError
from shrinkc.log import Silent
from shrinkc.training.executor import Executor
from shrinkc.training.gradients import gradients
from shrinkc.training.lifting import lift_weights
from shrinkc.training.running import trained


def test_training_ends_with_the_weights_that_initializers_would_have(tmp_path: Path) -> None:
    found = []
    for kind in (lambda proto: proto, in_constants):
        what = lesson(loaded(kind(convnet(1)), tmp_path), pictures(), loaded(convnet(2), tmp_path))
        done = trained(what, settings(batch_norm="batch"), Silent())
        found.append(done.context.tensors)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_only_what_a_layer_reads_as_a_weight_is_lifted(tmp_path: Path) -> None:
    proto = in_constants(mlp())
    mask = helper.make_node("Constant", [], ["mask"], value=onnx.numpy_helper.from_array(np.zeros(2, np.float32), "mask"))
    add = helper.make_node("Add", [proto.graph.output[0].name, "mask"], ["masked"])
    proto.graph.node.extend([mask, add])
    proto.graph.output[0].name = "masked"
    model = loaded(proto, tmp_path)
    assert set(lift_weights(model)) == {"w1", "b1", "w2", "b2"}
    assert [node.op_type for node in model.graph].count("Constant") == 1
    assert lift_weights(model) == ()
    x = {"x": torch.rand(3, 2)}
    torch.testing.assert_close(Executor(model)(x)["masked"], Executor(loaded(proto, tmp_path))(x)["masked"])


def test_modules_and_gradients_know_them(tmp_path: Path) -> None:
    onnx.save(in_constants(mlp()), str(tmp_path / "m.onnx"))
    module = shrinkc.torch.load(tmp_path / "m.onnx")
    assert {"w1", "w2"} <= {name for name, _ in module.named_parameters()}
    model = loaded(in_constants(mlp()), tmp_path)
    held = [node for node in model.graph if node.op_type == "Constant"]
    stored = gradients(loaded(mlp(), tmp_path), blobs(8))
    found = gradients(model, blobs(8))
    assert found.keys() == stored.keys()
    assert all(np.allclose(found[name], stored[name]) for name in stored)
    assert [node for node in model.graph if node.op_type == "Constant"] == held, "the model itself stays as it is"


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    graph = ir.from_proto(
        helper.make_model(
            helper.make_graph(
                [helper.make_node("Relu", ["x"], ["y"])],
                "g",
                [helper.make_tensor_value_info("x", 1, ["N", 2])],
                [helper.make_tensor_value_info("y", 1, ["N", 2])],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
        )
    )
    with pytest.raises(RecipeError, match="nothing to train"):
        trained(lesson(graph, blobs()), settings(teacher="none"), Silent())


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path: Path) -> None:
    def run(teacher: int) -> None:
        student, original = (loaded(in_constants(convnet(seed)), tmp_path) for seed in (1, teacher))
        trained(lesson(student, pictures(), original), settings(), Silent(), tmp_path / "run.npz")

    run(2)
    with pytest.raises(RecipeError, match="another run"):
        run(3)
