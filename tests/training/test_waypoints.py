from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from training.lessons import context, convnet, lesson, loaded, pictures

from shrinkc.analysis.groups import Analysis
from shrinkc.opening import analysed
from shrinkc.training import preparing
from shrinkc.training.distill import Feature
from shrinkc.training.waypoints import affordable, features_for


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


def test_the_last_values_are_compared_that_there_is_room_for() -> None:
    features = [Feature("a"), Feature("b"), Feature("c")]
    sizes = {"out": 10.0, "a": 1.0, "b": 30.0, "c": 5.0}
    for room, names in ((46, "abc"), (45.5, "bc"), (45, "bc"), (44, "c"), (15, "c"), (14, ""), (5, "")):
        assert "".join(feature.name for feature in affordable(features, sizes, room)) == names


def test_a_run_says_how_many_values_inside_it_had_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, analysis = convnet_analysed(tmp_path)
    teacher = loaded(convnet(1), tmp_path, "t.onnx")
    features = features_for(analysis, analysis.keep_mask({}), student, 4)
    what = replace(lesson(student, pictures(), teacher), features=features)
    needed = 4 * (8 * 8 * 8 + 3) * 64  # of so few samples all judge
    for room, count in ((needed, 1), (needed - 1, 0)):
        monkeypatch.setattr(preparing, "CACHE_BYTES", room)
        made = context(what, feature_weight=1.0)
        assert made.settings.features == len(made.objective.distillation.features) == count


def test_values_inside_are_brought_closer(tmp_path: Path) -> None:
    analysis = convnet_analysed(tmp_path)[1]
    teacher = loaded(convnet(1), tmp_path, "t.onnx")
    features = features_for(analysis, analysis.keep_mask({}), teacher, 4)
    made = context(replace(lesson(loaded(convnet(), tmp_path), pictures(), teacher), features=features), feature_weight=1.0)
    assert made.objective.distillation is not None
    inputs = {"image": torch.from_numpy(pictures().inputs["image"])}
    told = made.feeder.teacher.targets(inputs)  # type: ignore[union-attr]
    own = made.executor(inputs, also=("relu5",))
    outputs = replace(made.objective.distillation, feature_weight=0.0)(own, told)
    whole = made.objective.distillation(own, told)
    spread = (told["relu5"] - told["relu5"].mean(0)).square().mean()
    by_hand = (own["relu5"] - told["relu5"]).square().mean() / spread
    torch.testing.assert_close(whole - outputs, by_hand, rtol=1e-4, atol=1e-5)


def convnet_analysed(folder: Path) -> tuple[ir.Model, Analysis]:
    model = loaded(convnet(), folder)
    return model, analysed(model, pictures())
