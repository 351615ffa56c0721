"""A walk gives the values that one run of the whole graph gives, whatever it keeps where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import models.control_topologies  # noqa: F401 (registers its topologies)
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from cutting import Batch
from models.topologies import TOPOLOGIES

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.evidence import walking
from shrinkc.evidence.walking import Walk
from shrinkc.shapes import input_shapes

NAMES = [
    "multi_branch", "split_and_merge", "weights_in_constant_nodes", "branch_with_a_layer_inside", "branch_within_a_branch",
    "two_inputs_two_outputs", "computed_reshape", "old_initializers_are_inputs",
]  # fmt: skip


def batches_for(model: ir.Model, sizes: Sequence[int] = (2, 2, 1)) -> list[Batch]:
    generator = np.random.default_rng(0)
    shapes = input_shapes(model).items()
    return [{name: generator.standard_normal((size, *s[1:])).astype(np.float32) for name, s in shapes} for size in sizes]


def everything(model: ir.Model, batch: Batch) -> dict[str, np.ndarray]:
    """Every value of the main graph, from one run of onnxruntime."""
    proto = ir.to_proto(model)
    names = [name for node in proto.graph.node if node.op_type != "Constant" for name in node.output if name]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, dict(batch)), strict=True))


def walk_through(model: ir.Model, batches: Sequence[Batch], stride: int, needed: Sequence[str]) -> Walk:
    """A walk in steps of a few nodes, at its end."""
    walk = Walk(model, batches, registry.load("runtimes", "onnxruntime-cpu")(), needed)
    for end in range(stride, len(list(model.graph)) + stride, stride):
        walk.advance(end)
    return walk


@pytest.mark.parametrize("limit", [walking.MEMORY_BYTES, 0], ids=["in_memory", "on_disk"])
@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_that_of_one_run(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "MEMORY_BYTES", limit)
    model = ir.from_proto(TOPOLOGIES[name]().model())
    batches = batches_for(model)
    expected = [everything(model, batch) for batch in batches]
    walk = walk_through(model, batches, 3, list(expected[0]))
    for number, values in enumerate(expected):
        for value, array in values.items():
            np.testing.assert_allclose(walk.value(value, number), array, rtol=1e-4, atol=1e-5, err_msg=value)


def test_values_nobody_reads_any_more_are_dropped() -> None:
    model = ir.from_proto(TOPOLOGIES["chain"]().model())
    names = [node.outputs[0].name or "" for node in model.graph]
    walk = walk_through(model, batches_for(model), 1, [names[2], names[2]])
    assert [name for name in ["x", *names] if walk.has(name)] == [names[2]]
    walk.release(names[2])
    assert walk.has(names[2]), "it was asked for twice"
    walk.release(names[2])
    assert not walk.has(names[2])


def test_files_of_values_go_with_the_values_and_with_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "MEMORY_BYTES", 0)
    monkeypatch.setattr(walking.tempfile, "mkdtemp", lambda prefix: str(_made(tmp_path / prefix)))
    model = ir.from_proto(TOPOLOGIES["chain"]().model())
    names = [node.outputs[0].name or "" for node in model.graph]
    walk = walk_through(model, batches_for(model), 1, [names[1]])
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 3, "one a batch, of the one value that is needed"
    walk.replace(names[1], 0, np.zeros(3, np.float32))
    assert not walk.value(names[1], 0).any()
    assert len(list(folder.iterdir())) == 3
    del walk
    assert not list(tmp_path.iterdir())


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_weight_changed_on_the_way_counts_from_there_on() -> None:
    model = ir.from_proto(TOPOLOGIES["chain"]().model())
    batches = batches_for(model)
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    weight, name = convolutions[1].inputs[1], convolutions[1].outputs[0].name or ""
    assert weight is not None
    walk = Walk(model, batches, registry.load("runtimes", "onnxruntime-cpu")(), [name])
    place = walk.place(name)
    assert place is not None
    walk.advance(place)
    shrinkc_ir.replace_tensor(weight, 2 * shrinkc_ir.stored_array(weight))
    walk.advance(place + 1)
    np.testing.assert_allclose(walk.value(name, 0), everything(model, batches[0])[name], rtol=1e-4, atol=1e-5)
