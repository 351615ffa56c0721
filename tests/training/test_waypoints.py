from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from models.builder import Net
from training.lessons import context, convnet, lesson, loaded, pictures

from shrinkc.analysis.groups import Analysis
from shrinkc.evidence.data import Data
from shrinkc.opening import analysed
from shrinkc.training import preparing
from shrinkc.training.budget import Budget
from shrinkc.training.phases import Train
from shrinkc.training.schedules import Constant
from shrinkc.training.state import copied
from shrinkc.training.waypoints import features_for


def test_values_inside_are_compared_through_the_channels_that_are_left(tmp_path: Path) -> None:
    model, analysis = convnet_analysed(tmp_path)
    first, second = (group.name for group in analysis.groups)
    for keep, kept in (({}, None), ({second: [0, 2, 5]}, (0, 2, 5)), ({first: [1]}, None)):
        (feature,) = features_for(analysis, analysis.keep_mask(keep), model, 4)
        assert (feature.name, feature.kept) == ("relu5", kept)


def test_values_that_the_cut_network_has_not_any_more_are_not_compared(tmp_path: Path) -> None:
    model, analysis = convnet_analysed(tmp_path)
    student = loaded(convnet(), tmp_path, "s.onnx")
    for node in student.graph:
        node.outputs[0].name = f"another_{node.outputs[0].name}"
    assert features_for(analysis, analysis.keep_mask({}), model, 4)
    assert features_for(analysis, analysis.keep_mask({}), student, 4) == []


def test_the_distance_inside_is_one_of_squares_over_the_spread_of_the_original(tmp_path: Path) -> None:
    analysis = convnet_analysed(tmp_path)[1]
    teacher = loaded(convnet(1), tmp_path, "t.onnx")
    features = features_for(analysis, analysis.keep_mask({}), teacher, 4)
    made = context(replace(lesson(loaded(convnet(), tmp_path), pictures(), teacher), features=features), feature_weight=1.0)
    assert made.objective.distillation is not None
    inputs = {"image": torch.from_numpy(pictures().inputs["image"])}
    told = made.feeder.teacher.targets(inputs)  # type: ignore[union-attr]
    with torch.no_grad():
        own = made.executor(inputs, also=("relu5",))
    outputs = replace(made.objective.distillation, feature_weight=0.0)(own, told)
    whole = made.objective.distillation(own, told)
    spread = (told["relu5"] - told["relu5"].mean(0)).square().mean()
    by_hand = (own["relu5"] - told["relu5"]).square().mean() / spread
    torch.testing.assert_close(whole - outputs, by_hand, rtol=1e-4, atol=1e-5)
    assert float(outputs) > 0


def test_training_brings_values_inside_closer(tmp_path: Path) -> None:
    analysis = convnet_analysed(tmp_path)[1]
    teacher = loaded(convnet(1), tmp_path, "t.onnx")
    features = features_for(analysis, analysis.keep_mask({}), teacher, 4)
    inputs = {"image": torch.from_numpy(pictures().inputs["image"])}
    told: dict[str, torch.Tensor] = {}
    distances = []
    for weight in (5.0, 0.0):
        what = replace(lesson(loaded(convnet(), tmp_path), pictures(), teacher), features=features)
        made = context(what, feature_weight=weight)
        told |= made.feeder.teacher.targets(inputs)  # type: ignore[union-attr]
        Train(Budget(30, "steps"), Constant(0.003), keeps_best=False).run(made)
        with torch.no_grad():
            own = made.executor.eval()(inputs, also=("relu5",))
        distances.append(float((own["relu5"] - told["relu5"]).square().mean()))
    assert distances[0] < 0.8 * distances[1]


def test_answers_there_is_no_room_for_are_asked_in_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for room in (1 << 30, 0):
        monkeypatch.setattr(preparing, "CACHE_BYTES", room)
        student, analysis = convnet_analysed(tmp_path)
        features = features_for(analysis, analysis.keep_mask({}), student, 4)
        what = replace(lesson(student, pictures(), loaded(convnet(1), tmp_path, "t.onnx")), features=features)
        made = context(what, feature_weight=1.0)
        assert (made.feeder.asked is None) == (room == 0)
        Train(Budget(9, "steps"), Constant(0.003), keeps_best=False).run(made)
        weights.append(copied(made.tensors))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-5)


def flat() -> onnx.ModelProto:
    """Positions of all samples in one row, in between."""
    net = Net()
    x = net.op("Reshape", net.input("x", ["N", 5, 8]), net.ints(-1, 8))
    x = net.relu(net.op("Gemm", x, net.weight(32, 8), net.const(np.zeros(32, np.float32)), transB=1))
    x = net.op("Reshape", x, net.ints(-1, 160))
    net.output(net.op("Gemm", x, net.weight(3, 160), net.const(np.zeros(3, np.float32)), transB=1))
    return net.model()


def time_major() -> onnx.ModelProto:
    """Steps before samples, in between."""
    net = Net()
    x = net.op("Transpose", net.input("x", ["N", 5, 8]), perm=[1, 0, 2])
    x = net.relu(net.op("Add", net.op("MatMul", x, net.weight(8, 32)), net.const(np.zeros(32, np.float32))))
    x = net.op("ReduceMean", x, axes=[0], keepdims=0)
    net.output(net.op("Gemm", x, net.weight(3, 32), net.const(np.zeros(3, np.float32)), transB=1))
    return net.model()


@pytest.mark.parametrize("net", [flat, time_major])
@pytest.mark.parametrize("n_samples", [64, 5])
def test_values_without_a_row_for_every_sample_are_not_compared(
    net: Callable[[], onnx.ModelProto], n_samples: int, tmp_path: Path
) -> None:
    data = Data({"x": np.random.default_rng(0).random((n_samples, 5, 8)).astype(np.float32)}, None, "rows")
    student = loaded(net(), tmp_path)
    analysis = analysed(student, data)
    features = features_for(analysis, analysis.keep_mask({}), student, 4)
    assert features, "there would be nothing to leave out"
    what = replace(lesson(student, data, loaded(net(), tmp_path, "t.onnx")), features=features)
    assert context(what, feature_weight=1.0).objective.inside == ()


def test_what_judges_is_what_the_model_says(tmp_path: Path) -> None:
    found = []
    for weight in (0.0, 5.0):
        student, analysis = convnet_analysed(tmp_path)
        features = features_for(analysis, analysis.keep_mask({}), student, 4)
        teacher = loaded(convnet(1), tmp_path, "t.onnx")
        made = context(replace(lesson(student, pictures(), teacher), features=features), feature_weight=weight)
        assert set(made.answers.values) == set(made.executor.output_names)
        found.append(made.evaluate())
    assert found[0] == found[1]


def convnet_analysed(folder: Path) -> tuple[ir.Model, Analysis]:
    model = loaded(convnet(), folder)
    return model, analysed(model, pictures())
