"""onnx's own node tests with channels laid over every axis in turn: whatever a rule lets go must stand up to the proof."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.allocate import Allocating, Limits
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import analyse
from shrinkc.shapes import input_shapes
from shrinkc.surgery import remove_channels
from shrinkc.verify import prove

PRUNED = [
    "ArgMax", "BatchNormalization", "BitCast", "Concat", "DynamicQuantizeLinear", "GRU",
    "Gather", "GatherElements", "GatherND", "GroupNormalization", "Hardmax", "InstanceNormalization", "LSTM",
    "LayerNormalization", "LpNormalization", "MeanVarianceNormalization", "RMSNormalization", "RNN", "ReduceMean",
    "ScatterElements", "ScatterND", "Split", "TopK",
]  # fmt: skip
REFUSED = ["AffineGrid", "DFT", "LRN", "MaxUnpool", "NonMaxSuppression", "SoftmaxCrossEntropyLoss", "STFT"]
CASES_PER_OPERATOR = 4


class AlmostAll:
    """An allocator that leaves one channel of every group."""

    name = "almost-all"
    needs_evidence = False

    def widths(self, problem, pressure):  # type: ignore[no-untyped-def]
        return {group.name: 1.0 for group in problem.groups}


def cases(operator: str) -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the expected outputs overflows on purpose
        everything = load_model_tests(kind="node")
    single = [case for case in everything if [node.op_type for node in case.model.graph.node] == [operator]]
    return single[:CASES_PER_OPERATOR]


def embedded(case: Any, into: int, out_of: int, only_first: bool) -> onnx.ModelProto | None:
    """The node between products with stored matrices, along axis ``into`` of its inputs and ``out_of`` of its outputs."""
    random, graph = np.random.default_rng(0), case.model.graph
    arrays = [np.asarray(array) for array in case.data_sets[0][0]]
    inputs, nodes, stored = [], [], []
    for index, (value, array) in enumerate(zip(graph.input, arrays, strict=True)):
        is_data = array.dtype == np.float32 and array.ndim > into and array.shape[into] > 1
        if is_data and not (index and (only_first or array.ndim == 1)):
            name = f"source{index}"
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
            size = array.shape[into]
            stored.append(numpy_helper.from_array(random.standard_normal((size, size)).astype(np.float32), f"{name}.weight"))
            nodes += along(name, into, array.ndim, value.name)
        else:
            stored.append(numpy_helper.from_array(array, value.name))
    nodes.append(graph.node[0])
    outputs = []
    for value, array in zip(graph.output, run(case.model, graph.input, arrays), strict=True):
        if array.ndim > out_of and array.shape[out_of] > 1 and array.dtype.kind in "fiub":
            weight = random.standard_normal((array.shape[out_of], 3)).astype(np.float32)
            stored.append(numpy_helper.from_array(weight, f"{value.name}.as_float.weight"))
            nodes.append(helper.make_node("Cast", [value.name], [f"{value.name}.as_float"], to=TensorProto.FLOAT))
            nodes += along(f"{value.name}.as_float", out_of, array.ndim, f"{value.name}.read")
            outputs.append(helper.make_tensor_value_info(f"{value.name}.read", TensorProto.FLOAT, None))
    if not inputs or not outputs:
        return None
    model = helper.make_model(
        helper.make_graph(nodes, "embedded", inputs, outputs, stored), opset_imports=case.model.opset_import
    )
    model.ir_version = case.model.ir_version
    return model


def along(name: str, axis: int, rank: int, result: str) -> list[onnx.NodeProto]:
    """``result`` is ``name`` times the matrix ``name.weight`` along one axis."""
    order = [other for other in range(rank) if other != axis] + [axis]
    return [
        helper.make_node("Transpose", [name], [f"{name}.turned"], perm=order),
        helper.make_node("MatMul", [f"{name}.turned", f"{name}.weight"], [f"{name}.times"], name=f"{name}.product"),
        helper.make_node("Transpose", [f"{name}.times"], [result], perm=np.argsort(order).tolist()),
    ]


def run(model: onnx.ModelProto, inputs: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, dict(zip([v.name for v in inputs], arrays, strict=True)))]


def removals(model: onnx.ModelProto, tmp_path: Any) -> Iterator[int]:
    """Remove random channels and prove it, if any may go; yields how many classes went."""
    onnx.save(model, str(tmp_path / "model.onnx"))
    loaded = shrinkc_ir.load(tmp_path / "model.onnx")
    shapes = input_shapes(loaded)
    analysis = analyse(loaded, shapes, registry.operator_rules())
    if not analysis.groups:
        return
    random = np.random.default_rng(1)
    scores = {group.name: random.random(group.width) for group in analysis.groups}
    allocation = Allocating(analysis, CostModel(analysis), AlmostAll(), scores, Limits()).at(0.5)
    is_kept = analysis.keep_mask(allocation.keep)
    if is_kept.all():
        return
    pruned = remove_channels(analysis, is_kept, shapes)
    prove(analysis, is_kept, pruned, shapes, registry.load("runtimes", "onnxruntime-cpu")())
    yield int((~is_kept).sum())


@pytest.mark.parametrize("operator", PRUNED + REFUSED)
def test_node_tests_with_channels_on_every_axis(operator: str, tmp_path: Any) -> None:
    count: Counter[str] = Counter()
    for case, into, out_of, only_first in itertools.product(cases(operator), range(4), range(4), (False, True)):
        try:
            model = embedded(case, into, out_of, only_first)
        except (ort.capi.onnxruntime_pybind11_state.NotImplemented, ort.capi.onnxruntime_pybind11_state.Fail):
            continue  # onnxruntime lacks this version of the operator
        if model is not None:
            count["embedded"] += 1
            count["pruned"] += len(list(removals(model, tmp_path)))
    assert count["embedded"]
    assert bool(count["pruned"]) == (operator in PRUNED)
