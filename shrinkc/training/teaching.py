"""Who teaches, and how far from the teacher the student is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import torch

from shrinkc.errors import TrainingError
from shrinkc.evidence.data import fixed_batch
from shrinkc.training.any_batch import for_any_batch
from shrinkc.training.distill import Distillation, Feature, distances_for, probabilities_of
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

LARGEST_OFF, MEAN_OFF = 1e-3, 0.05
"""How far a row may be from what it was in another place: its furthest number, as a share of the largest there is;
or the mean of all, as a share of how far samples are apart."""


def teachers(lesson: Lesson, settings: Settings, judging: Samples) -> tuple[Teacher | None, Teacher | None]:
    """Who teaches, values inside among what is told, and who judges by the outputs alone; nobody where labels teach.

    What has no row for each sample cannot be told sample by sample, and is left out.
    """
    if lesson.teacher is None:
        return None, None
    asked = lesson.features if settings.feature_weight else ()
    everything = _teacher(lesson, lesson.teacher, asked, settings)
    known = _rows(everything, judging)
    features = [feature for feature in asked if feature.name in known]
    outputs = frozenset(value.name or "" for value in lesson.teacher.graph.outputs) & known
    judge = replace(_teacher(lesson, lesson.teacher, (), settings) if asked else everything, outputs=outputs)
    if not features:
        return judge, judge
    teacher = everything if features == list(asked) else _teacher(lesson, lesson.teacher, features, settings)
    return replace(teacher, outputs=outputs), judge


def _rows(teacher: Teacher, samples: Samples) -> frozenset[str]:
    """Values whose first axis is that of the samples, as seen by turning their order around."""
    unit = teacher.unit or 1
    few = next(samples.parts(max(1, TURNED // unit) * unit)).inputs
    told, turned = (teacher.targets(inputs) for inputs in (few, {name: tensor.flip(0) for name, tensor in few.items()}))
    size = len(next(iter(few.values())))
    return frozenset(name for name, value in told.items() if is_turned(value, turned[name], size))


def is_turned(told: torch.Tensor, turned: torch.Tensor, size: int) -> bool:
    """Whether rows changed places, up to what another order of sums does: in few bits that is much, but not to most of them."""
    if not told.is_floating_point() or told.shape != turned.shape or len(told) != size:
        return False
    if not told.numel():
        return True
    told, turned = told.float(), turned.float()
    off = (told.flip(0) - turned).abs()
    spread = (told - told.mean(0, keepdim=True)).abs().mean()
    return bool(off.max() <= LARGEST_OFF * told.abs().max()) or bool(off.mean() <= MEAN_OFF * spread)


def _teacher(lesson: Lesson, original: ir.Model, features: Sequence[Feature], settings: Settings) -> Teacher:
    names = [feature.name for feature in features]
    many = for_any_batch(original, lesson.data, names)
    if many is not None:
        return Teacher(_by_executor(many, names, settings.device), features)
    if settings.device == "cpu":
        forward = by_runtime(original, lesson.runtime, names, torch.get_num_threads())
    else:
        forward = _by_executor(Executor(original), names, settings.device)
    return Teacher(forward, features, fixed_batch(original))


def _by_executor(executor: Executor, inside: Sequence[str], device: str) -> Forward:
    executor.to(device).eval()

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
    TrainingError
        No output can be distilled.
    """
    are_probabilities = label_output in probabilities_of(lesson.student)
    if teacher is None:
        return Objective(None, 0.0, settings.label_smoothing, classes, label_output, are_probabilities)
    is_labelled = bool(label_output) and "mix" not in settings.augment  # mixed images have no labels
    return Objective(
        _distillation(lesson, teacher, teacher.targets(_probe(samples, teacher.unit).inputs), settings, classes),
        settings.label_weight if is_labelled else 0.0,
        settings.label_smoothing,
        classes,
        label_output,
        are_probabilities,
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
        probabilities_of(lesson.student),
        settings.logit_loss,
        settings.other_loss,
        settings.temperature,
    )
    if not distances:
        raise TrainingError(
            "no output can be distilled",
            because="none of them is of floating numbers with a row for each sample",
            hint="an export whose outputs begin with the samples",
        )
    among = {name: value for name, value in values.items() if name in inside}
    return Distillation(distances, distances_for(among, (), (), "mse", "mse", 1.0), settings.feature_weight)
