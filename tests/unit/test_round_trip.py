"""What a file may hold besides a plain graph, and that it is there again after reading and writing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.topologies import TOPOLOGIES
from onnx import TensorProto, helper, numpy_helper

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc.errors import UnsupportedGraphError

Save = Callable[..., Path]


def tag(holder: object) -> None:
    entry = holder.metadata_props.add()  # type: ignore[attr-defined]
    entry.key, entry.value = "key", "value"


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def tensor(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def branch(name: str, declared: bool) -> onnx.GraphProto:
    """A graph with an initializer of its own, declared or not."""
    own = tensor(f"{name}_own", 3)
    infos = [value(f"{name}_own", 3)] if declared else []
    node = helper.make_node("Add", ["y", f"{name}_own"], [f"{name}_out"])
    return helper.make_graph([node], name, [], [value(f"{name}_out", "n", 3)], [own], value_info=infos)


def everything() -> onnx.ModelProto:
    weight = tensor("declared", 4, 3)
    weight.doc_string = "a weight"
    gemm = helper.make_node("Gemm", ["x", "declared", "plain"], ["y"], name="gemm", doc_string="a layer")
    chosen = helper.make_node("If", ["c"], ["z"], then_branch=branch("yes", True), else_branch=branch("no", False))
    call = helper.make_node("Scale", ["z"], ["out"], domain="com.acme", overload="wide", alpha=2.0)
    graph = helper.make_graph(
        [gemm, chosen, call], "net", [value("x", "n", 4), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [value("out", "n", 3)], [weight, tensor("plain", 3)], doc_string="a graph",
        value_info=[value("declared", 4, 3), value("y", "n", 3)],
    )  # fmt: skip
    note = graph.quantization_annotation.add(tensor_name="y")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="plain")
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    function = helper.make_function(
        "com.acme", "Scale", ["a"], ["b"], body, opsets[:1], attributes=["alpha"],
        attribute_protos=[helper.make_attribute("beta", 1.0)], doc_string="a function", overload="wide",
        value_info=[value("a", 3), value("b", 3)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], doc_string="a model", producer_name="acme")
    model.ir_version, model.domain, model.model_version, model.producer_version = 10, "com.acme", 3, "7"
    for holder in (model, model.graph, model.graph.node[0], model.graph.initializer[0], model.functions[0]):
        tag(holder)
    return model


def test_everything_a_file_holds_is_there_again(saved: Save, tmp_path: Path) -> None:
    model = everything()
    onnx.checker.check_model(model)
    for _ in range(2):  # what is added on the way would be added twice
        shrinkc_ir.save(shrinkc_ir.load(saved(model)), tmp_path / "again.onnx")
        again = onnx.load(str(tmp_path / "again.onnx"))
        assert str(again) == str(model)
        model = again


def sparse(name: str) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    return helper.make_sparse_tensor(tensor(name, 1), indices, [3])


def put_sparse_in_a_branch(model: onnx.ModelProto) -> None:
    model.graph.node[1].attribute[0].g.sparse_initializer.append(sparse("thin"))


def put_sparse_in_a_constant(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], sparse_value=sparse("thin")))


def put_a_map(model: onnx.ModelProto) -> None:
    classes = model.graph.output.add(name="classes").type.sequence_type.elem_type.map_type
    classes.key_type = TensorProto.INT64
    classes.value_type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.node.append(helper.make_node("ZipMap", ["out"], ["classes"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]))


def put_training(model: onnx.ModelProto) -> None:
    model.training_info.add()


@pytest.mark.parametrize("damage", [put_sparse_in_a_branch, put_sparse_in_a_constant, put_a_map, put_training])
def test_what_would_be_lost_is_refused_with_the_reason(damage: Callable[..., None], saved: Save) -> None:
    model = everything()
    damage(model)
    with pytest.raises(UnsupportedGraphError) as caught:
        shrinkc_ir.load(saved(model))
    assert caught.value.because


def test_a_sequence_as_input_is_refused_with_the_reason(saved: Save, tmp_path: Path) -> None:
    model = TOPOLOGIES["chain"]().model()
    listed = model.graph.input.add(name="listed")
    listed.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(UnsupportedGraphError, match="no tensor") as caught:
        shrinkc.compress(saved(model), output=tmp_path / "out.onnx", prune_ratio=0.5)
    assert "Sequence" in caught.value.because


def constant_outside(location: str, data: bytes, inside_function: bool) -> onnx.ModelProto:
    """A model with one Constant node whose tensor lies in another file."""
    net = TOPOLOGIES["chain"]()
    stored = onnx.TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, entry in (("location", location), ("length", str(len(data)))):
        stored.external_data.add(key=key, value=entry)
    constant = helper.make_node("Constant", [], ["k"], value=stored)
    if not inside_function:
        net.nodes[:0] = [constant, helper.make_node("Mul", ["x", "k"], ["scaled"])]
        net.nodes[2].input[0] = "scaled"
        return net.model()
    body = [constant, helper.make_node("Mul", ["a", "k"], ["b"])]
    net.functions.append(helper.make_function("acme.nn", "Scale", ["a"], ["b"], body, [helper.make_opsetid("", net.opset)]))
    net.domains["acme.nn"] = 1
    net.nodes.insert(0, helper.make_node("Scale", ["x"], ["scaled"], domain="acme.nn"))
    net.nodes[1].input[0] = "scaled"
    return net.model()


@pytest.mark.parametrize("inside_function", [False, True])
def test_constants_of_nodes_and_functions_must_lie_in_the_folder_and_come_along(inside_function: bool, tmp_path: Path) -> None:
    data = np.full(1, 2, np.float32).tobytes()
    (tmp_path / "in").mkdir()
    for place in (tmp_path / "k.bin", tmp_path / "in" / "k.bin"):
        place.write_bytes(data)
    path = tmp_path / "in" / "model.onnx"
    path.write_bytes(constant_outside("../k.bin", data, inside_function).SerializeToString())
    with pytest.raises(UnsupportedGraphError, match="outside"):
        shrinkc_ir.load(path)
    path.write_bytes(constant_outside("k.bin", data, inside_function).SerializeToString())
    report = shrinkc.compress(path, output=tmp_path / "elsewhere" / "out.onnx", prune_ratio=0.5, round_to=1)
    assert report.proof is not None
    onnx.checker.check_model(onnx.load(str(tmp_path / "elsewhere" / "out.onnx"), load_external_data=False), full_check=True)
    assert b"k.bin" not in (tmp_path / "elsewhere" / "out.onnx").read_bytes()
