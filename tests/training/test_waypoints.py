from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import torch
from training.lessons import context, convnet, lesson, loaded, pictures

from shrinkc.analysis.groups import Analysis
from shrinkc.opening import analysed
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


def test_values_inside_are_brought_closer(tmp_path: Path) -> None:
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
