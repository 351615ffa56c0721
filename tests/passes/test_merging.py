from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from models.builder import Net

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.api import RunConfig
from shrinkc.errors import BudgetError
from shrinkc.merging import by_work, merge_factors, pairs_in
from shrinkc.shapes import Shadow, input_shapes


def factored_net() -> Net:
    """A convolution with bias and one of single positions, and two products, the second pair not worth it."""
    net = Net()
    net.input("x", ["n", 6, 9, 8])
    y = net.conv("x", 6, 20, strides=[2, 2])
    y = net.relu(net.conv(y, 20, 12, 1, pads=[0, 0, 0, 0]))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", y))
    wide = net.op("Gemm", pooled, net.weight(3, 12), net.vector(3), transB=1)
    net.output(str(net.op("Gemm", wide, net.weight(30, 3), net.vector(30), transB=1)))
    return net


def test_pairs_that_cost_more_than_the_layer_whole_are_merged_exactly() -> None:
    model = ir.from_proto(factored_net().model())
    before = model.clone()
    shadow = Shadow.of(model, input_shapes(model))
    assert len(pairs_in(model, shadow)) == 2
    (merged,) = merge_factors(model, shadow, by_work)
    assert [node.op_type for node in model.graph].count("Conv") == 1
    assert [node.op_type for node in model.graph].count("Gemm") == 2
    runtime = registry.load("runtimes", "onnxruntime-cpu")()
    x = np.random.default_rng(0).standard_normal((2, 6, 9, 8)).astype(np.float32)
    expected, actual = (
        next(iter(runtime.load(shrinkc_ir.loadable(one), RunConfig()).run({"x": x}).values())) for one in (before, model)
    )
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()
    assert merged in {value.name for node in model.graph for value in node.outputs}


def test_a_factorised_model_comes_back_dense_under_its_own_names(tmp_path: Path) -> None:
    net = Net()
    net.input("x", ["n", 6, 9, 8])
    net.output(net.head(net.relu(net.conv("x", 6, 12)), 12))
    path = net.save(tmp_path / "m.onnx")
    quick = {"measure_latency": False, "round_to": 1}
    shrinkc.compress(path, output=tmp_path / "f.onnx", method="lowrank", macs="80%", **quick)
    model = shrinkc_ir.load(tmp_path / "f.onnx")
    shadow = Shadow.of(model, input_shapes(model))
    merged = merge_factors(model, shadow, lambda pair: True)
    names = [node.name for node in model.graph]
    assert merged
    assert not any(".factor" in name for name in [*names, *model.graph.initializers])
    assert names[0] == "Conv_0"


def test_pairs_in_a_row_and_tables_are_merged() -> None:
    net = Net()
    net.input("ids", ["n", 5], 7)
    x = net.op("Gather", net.weight(40, 3), "ids", axis=0)
    x = net.op("MatMul", x, net.weight(3, 8))
    x = net.op("MatMul", x, net.weight(8, 30))
    net.output(str(net.op("MatMul", x, net.weight(30, 6))))
    model = ir.from_proto(net.model())
    before = model.clone()
    merged = merge_factors(model, Shadow.of(model, input_shapes(model)), lambda pair: True)
    assert len(merged) == 2
    assert [node.op_type for node in model.graph] == ["Gather", "MatMul"]
    runtime = registry.load("runtimes", "onnxruntime-cpu")()
    ids = np.random.default_rng(0).integers(0, 40, (2, 5))
    expected, actual = (
        next(iter(runtime.load(shrinkc_ir.loadable(one), RunConfig()).run({"ids": ids}).values())) for one in (before, model)
    )
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("change", ["strided", "read twice"])
def test_what_one_node_does_not_equal_is_left_alone(change: str) -> None:
    net = Net()
    net.input("x", ["n", 6, 9, 8])
    y = net.conv("x", 6, 8)
    strides = [2, 2] if change == "strided" else [1, 1]
    z = net.conv(y, 8, 8, 1, pads=[0, 0, 0, 0], strides=strides)
    net.output(z if change == "strided" else str(net.op("Add", y, z)))
    model = ir.from_proto(net.model())
    assert not pairs_in(model, Shadow.of(model, input_shapes(model)))


def test_the_command_merges_and_does_nothing_else_unless_a_budget_is_given(tmp_path: Path) -> None:
    path = factored_net().save(tmp_path / "m.onnx")
    report = shrinkc.compress(path, output=tmp_path / "o.onnx", merge_factors=True, measure_latency=False)
    assert any("put back together: 1 pairs" in note for note in report.notes)
    assert report.after.macs == report.before.macs
    assert report.after.size_bytes < path.stat().st_size


def test_where_no_pair_is_better_off_whole_the_command_says_so(tmp_path: Path) -> None:
    net = Net()
    net.input("x", ["n", 6, 9, 8])
    net.output(net.relu(net.conv("x", 6, 8)))
    with pytest.raises(BudgetError, match="no factors were merged"):
        shrinkc.compress(net.save(tmp_path / "m.onnx"), output=tmp_path / "o.onnx", merge_factors=True, measure_latency=False)
