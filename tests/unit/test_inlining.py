"""Local functions: what becomes of them, of the names around them, and of those that cannot be inlined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import judge
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models.function_topologies import DOMAIN, define
from models.topologies import TOPOLOGIES, start
from onnx import helper

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc.errors import ModelLoadError
from shrinkc.inlining import inline_functions

Save = Callable[..., Path]
FUNCTIONS = sorted(name for name in TOPOLOGIES if "function" in name)
STAY = {"function_that_stays"}


def inlined(path: Path) -> Path:
    model = shrinkc_ir.load(path)
    inline_functions(model)
    target = path.with_name("inlined.onnx")
    shrinkc_ir.save(model, target)
    return target


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inlining_changes_no_output_and_no_name_of_the_main_graph(name: str, saved: Save) -> None:
    original = TOPOLOGIES[name]().model()
    path = saved(original)
    after = onnx.load(str(inlined(path)))
    if name not in STAY:  # the checker wants one opset for all
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(after, check_type=True, strict_mode=True))
    assert bool(after.functions) == (name in STAY)
    assert [t.SerializeToString() for t in after.graph.initializer] == [
        t.SerializeToString() for t in original.graph.initializer
    ]
    names = {output for node in after.graph.node for output in node.output}
    assert {output for node in original.graph.node for output in node.output} <= names | {""}
    assert judge.face(path.with_name("inlined.onnx")) == judge.face(path)
    if name != "function_that_passes_through":  # onnxruntime refuses the original
        for a, b in zip(run(path), run(path.with_name("inlined.onnx")), strict=True):
            np.testing.assert_array_equal(a, b)


def run(path: Path) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    outputs: list[np.ndarray] = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return outputs


@pytest.mark.parametrize("name", ["function_with_weights_inside", "function_that_passes_through"])
def test_the_judge_agrees_once_the_functions_are_inlined(name: str, saved: Save, tmp_path: Path) -> None:
    original, output, plan = saved(TOPOLOGIES[name]()), tmp_path / "out.onnx", tmp_path / "plan.json"
    shrinkc.compress(original, output=output, save_plan=plan, prune_ratio=0.5, round_to=1, measure_latency=False)
    assert judge.independent_verdict(inlined(original), output, plan) == "pass"


def test_the_report_says_which_functions_were_inlined(saved: Save, tmp_path: Path) -> None:
    path = saved(TOPOLOGIES["function_within_a_function"]())
    report = shrinkc.compress(path, output=tmp_path / "out.onnx", prune_ratio=0.5, round_to=1, measure_latency=False)
    assert report.notes[0] == "Local functions were put in the place of their calls: acme.more::Block, acme.nn::Act."
    assert not onnx.load(str(tmp_path / "out.onnx")).functions


def test_a_function_written_for_another_opset_stays_and_freezes_what_it_touches(saved: Save, tmp_path: Path) -> None:
    path = saved(TOPOLOGIES["function_that_stays"]())
    report = shrinkc.compress(path, output=tmp_path / "out.onnx", prune_ratio=0.5, round_to=1, measure_latency=False)
    reasons = {refusal.blocker.reason: refusal.channels for refusal in report.refusals}
    assert reasons["no rule for operator acme.nn::Gate"] == 4
    assert len(onnx.load(str(tmp_path / "out.onnx")).functions) == 1


def test_a_function_inside_one_that_stays_stays_too(saved: Save) -> None:
    """Its body would run at the other's opset."""
    net, x = start()
    define(net, "Inner", ["a"], ["b"], [helper.make_node("Softmax", ["a"], ["b"], axis=1)])
    calls = [helper.make_node("Inner", ["a"], ["b"], domain=DOMAIN), helper.make_node("Softmax", ["b"], ["c"], axis=1)]
    define(net, "Outer", ["a"], ["c"], calls, opset=11)
    net.output(net.op("Outer", net.op("Inner", net.conv(x, 3, 8), domain=DOMAIN), domain=DOMAIN))
    path = saved(net)
    after = onnx.load(str(inlined(path)))
    assert {function.name for function in after.functions} == {"Inner", "Outer"}
    np.testing.assert_array_equal(run(path)[0], run(path.with_name("inlined.onnx"))[0])


def test_functions_that_nothing_calls_go(saved: Save) -> None:
    net = TOPOLOGIES["chain"]()
    define(net, "Unused", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])])
    assert not onnx.load(str(inlined(saved(net)))).functions


def test_functions_in_a_circle_are_refused(saved: Save) -> None:
    net, x = start()
    define(net, "A", ["a"], ["b"], [helper.make_node("B", ["a"], ["b"], domain=DOMAIN)])
    define(net, "B", ["a"], ["b"], [helper.make_node("A", ["a"], ["b"], domain=DOMAIN)])
    net.output(net.op("A", net.conv(x, 3, 8), domain=DOMAIN))
    with pytest.raises(ModelLoadError, match="circle"):
        inlined(saved(net))
