"""Who teaches, and how far from the teacher the student is."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from shrinkc.errors import RecipeError
from shrinkc.training.distill import Distillation, Feature, distances_for, made_by
from shrinkc.training.executor import Executor
from shrinkc.training.lesson import Lesson
from shrinkc.training.objective import Objective
from shrinkc.training.samples import Samples, Tensors
from shrinkc.training.settings import Settings
from shrinkc.training.teacher import Forward, Teacher, by_runtime

PROBED = 256
"""Samples that say how far the teacher's values are spread."""

TURNED = 8
"""Samples that tell which values have a row for each."""


def teachers(lesson: Lesson, settings: Settings, judging: Samples, unit: int | None) -> tuple[Teacher | None, Teacher | None]:
    """Who teaches, values inside among what is told, and who judges by the outputs alone; nobody where labels teach."""
    features = _features(lesson, settings, judging, unit)
    teacher = _teacher(lesson, features, settings, unit)
    return teacher, _teacher(lesson, (), settings, unit) if features else teacher


def _features(lesson: Lesson, settings: Settings, samples: Samples, unit: int | None) -> Sequence[Feature]:
    """Values inside that are compared: those whose first axis is that of the samples, as seen by turning their order around."""
    if not settings.feature_weight or (teacher := _teacher(lesson, lesson.features, settings, unit)) is None:
        return ()
    few = next(samples.parts(max(1, TURNED // (unit or 1)) * (unit or 1))).inputs
    told, turned = (teacher.targets(inputs) for inputs in (few, {name: tensor.flip(0) for name, tensor in few.items()}))
    size = len(next(iter(few.values())))
    return [feature for feature in lesson.features if _is_turned(told[feature.name], turned[feature.name], size)]


def _is_turned(told: torch.Tensor, turned: torch.Tensor, size: int) -> bool:
    atol = 1e-3 * float(told.abs().max()) if told.numel() else 0.0
    return len(told) == size and torch.allclose(told.flip(0), turned, rtol=0, atol=atol)


def _teacher(lesson: Lesson, features: Sequence[Feature], settings: Settings, unit: int | None) -> Teacher | None:
    if lesson.teacher is None:
        return None
    names = [feature.name for feature in features]
    if settings.device == "cpu":
        forward = by_runtime(lesson.teacher, lesson.runtime, names, torch.get_num_threads())
    else:
        forward = _by_executor(lesson.teacher, names, settings.device)
    return Teacher(forward, features, unit)


def _by_executor(model: ir.Model, inside: Sequence[str], device: str) -> Forward:
    executor = Executor(model).to(device).eval()

    def forward(inputs: Tensors) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = executor(
            {name: tensor.to(device) for name, tensor in inputs.items()}, also=tuple(inside)
        )
        return {name: value.cpu() for name, value in found.items()}

    return forward


def objective_of(
    lesson: Lesson,
    teacher: Teacher | None,
    samples: Samples,
    settings: Settings,
    classes: tuple[str, ...],
    label_output: str,
) -> Objective:
    """What is to be made small.

    Raises
    ------
    RecipeError
        No output can be distilled.
    """
    if teacher is None:
        return Objective(None, label_smoothing=settings.label_smoothing, classes=classes, labelled=label_output)
    is_labelled = bool(label_output) and "mix" not in settings.augment  # mixed images have no labels
    return Objective(
        _distillation(lesson, teacher, teacher.targets(_probe(samples, teacher.unit).inputs), settings, classes),
        settings.label_weight if is_labelled else 0.0,
        settings.label_smoothing,
        classes,
        label_output,
    )


def _probe(samples: Samples, unit: int | None) -> Samples:
    few = Samples({name: tensor[:PROBED] for name, tensor in samples.inputs.items()}, None)
    return few if unit is None else next(few.parts(max(unit, PROBED // unit * unit)))


def _distillation(
    lesson: Lesson, teacher: Teacher, values: Tensors, settings: Settings, classes: tuple[str, ...]
) -> Distillation:
    """Distances from what a teacher says, ``values`` being that for some samples: they tell spreads."""
    outputs = {value.name for value in lesson.student.graph.outputs}
    inside = {feature.name for feature in teacher.features} - outputs
    distances = distances_for(
        {name: value for name, value in values.items() if name not in inside},
        classes,
        _probabilities(lesson),
        settings.logit_loss,
        settings.other_loss,
        settings.temperature,
    )
    if not distances:
        raise RecipeError("no output can be distilled", because="all of them are whole numbers", hint="labels")
    among = {name: value for name, value in values.items() if name in inside}
    return Distillation(distances, distances_for(among, (), (), "mse", "mse", 1.0), settings.feature_weight)


def _probabilities(lesson: Lesson) -> list[str]:
    """Outputs that are probabilities already."""
    return [
        value.name or ""
        for value in lesson.student.graph.outputs
        if (node := made_by(value)) is not None and node.op_type == "Softmax"
    ]
