"""Models nobody here made: onnx's light graphs and PP-OCR's text direction classifier."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import judge
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import shrinkc

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = [
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19", "zfnet512",
]  # fmt: skip
TOO_LARGE_TO_FILL = {"bvlc_alexnet", "vgg19", "zfnet512"}
"""Several hundred megabytes once their weights are stored; they are pruned as they come."""


def light(name: str) -> Path:
    return LIGHT / f"light_{name}.onnx"


@pytest.mark.parametrize("name", NAMES)
def test_light_graphs_are_pruned_as_they_come(name: str, tmp_path: Path) -> None:
    """Their weights are ConstantOfShape nodes: the sizes these are made from shrink."""
    output = tmp_path / "out.onnx"
    verify = name not in TOO_LARGE_TO_FILL
    report = shrinkc.compress(light(name), output=output, prune_ratio=0.5, verify=verify, measure_latency=False)
    assert report.after.parameters < 0.5 * report.before.parameters
    assert judge.face(output) == judge.face(light(name))
    assert all(np.isfinite(array).all() for array in judge.run_with_onnxruntime(output))
    if verify:
        assert report.proof is not None
        assert not report.proof.is_weak


def fill(source: Path, target: Path) -> Path:
    """Store random weights in the place of the ConstantOfShape nodes, under the same names."""
    model, generator = onnx.load(str(source)), np.random.default_rng(0)
    graph = model.graph
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    slots = {name: slot for node in graph.node if node.op_type == "BatchNormalization" for slot, name in enumerate(node.input)}
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        shape, name = sizes[node.input[0]].tolist(), node.output[0]
        scale = np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
        array = generator.standard_normal(shape) * scale if len(shape) > 1 else generator.uniform(0.4, 1.6, shape)
        if len(shape) == 1 and slots.get(name) != 4:  # anything but a variance may be negative
            array = array * generator.choice([-1, 1], shape)
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        graph.node.remove(node)
    model.ir_version = 8
    onnx.save(model, str(target))
    return target


@pytest.mark.parametrize("name", sorted(set(NAMES) - TOO_LARGE_TO_FILL))
def test_light_graphs_with_stored_weights_pass_the_independent_judge(name: str, tmp_path: Path) -> None:
    original, output, plan = fill(light(name), tmp_path / "in.onnx"), tmp_path / "out.onnx", tmp_path / "plan.json"
    report = shrinkc.compress(original, output=output, save_plan=plan, prune_ratio=0.5, measure_latency=False)
    assert report.proof is not None
    assert judge.independent_verdict(original, output, plan) == "pass"


def test_a_resnet_loses_its_spines_too(tmp_path: Path) -> None:
    """At ratio 0.5 every width halves, so about a quarter is left; stopping at the spines leaves half."""
    report = shrinkc.compress(
        light("resnet50"), output=tmp_path / "out.onnx", prune_ratio=0.5, verify=False, measure_latency=False
    )
    assert report.after.parameters / report.before.parameters == pytest.approx(0.271, abs=0.002)
    assert {row.channels_before: row.channels_after for row in report.groups}[2048] == 1024


def text_direction() -> Path:
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("rapidocr-onnxruntime is not installed (make test installs it)")
    return Path(spec.submodule_search_locations[0]) / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"


@pytest.mark.parametrize("optimize", [True, False])
def test_text_direction_model_is_halved_and_proved(optimize: bool, tmp_path: Path) -> None:
    """Opset 11 from Paddle: weights in Constant nodes, unfolded BatchNorm, gates, depthwise, free height and width."""
    original, output, plan = text_direction(), tmp_path / "out.onnx", tmp_path / "plan.json"
    shapes = {"x": (1, 3, 48, 192)}
    report = shrinkc.compress(
        original, output=output, save_plan=plan, prune_ratio=0.5, optimize=optimize, input_shapes=shapes, measure_latency=False
    )
    assert report.proof is not None
    assert report.after.parameters < 0.4 * report.before.parameters
    assert judge.face(output) == judge.face(original)
    for size in ((1, 3, 48, 192), (3, 3, 48, 320)):
        (probabilities,) = judge.run_with_onnxruntime(output, {"x": size})
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert judge.independent_verdict(original, output, plan, shapes) == "pass"


def test_the_demo_model_keeps_its_accuracy_at_half_the_work(demo: Path, tmp_path: Path) -> None:
    report = shrinkc.compress(
        demo / "fashion_resnet.onnx",
        output=tmp_path / "out.onnx",
        macs="50%",
        data=demo / "fashion_calibration.npz",
        eval_data=demo / "fashion_eval.npz",
        measure_latency=False,
    )
    assert report.quality.accuracy_before == pytest.approx(0.9265, abs=0.002)
    assert report.quality.accuracy_after == pytest.approx(0.9265, abs=0.005)
    assert report.after.macs <= 0.5 * report.before.macs
