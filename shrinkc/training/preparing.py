"""From a model, data and settings to a context that can be trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from shrinkc.errors import RecipeError, RuntimeUnavailable
from shrinkc.evidence.data import Data, fixed_batch
from shrinkc.log import Progress
from shrinkc.training.any_batch import for_any_batch
from shrinkc.training.autocasting import settled
from shrinkc.training.checkpoint import Checkpoints
from shrinkc.training.context import Context
from shrinkc.training.distill import Feature, classes_of, labelled
from shrinkc.training.distributed import World, batch_norm
from shrinkc.training.evaluation import batches
from shrinkc.training.executor import Executor
from shrinkc.training.feeding import Feeder, pooled
from shrinkc.training.identity import fingerprint, outline
from shrinkc.training.interrupts import Interrupts
from shrinkc.training.lesson import Lesson, has_images
from shrinkc.training.samples import Samples, Tensors, held_out
from shrinkc.training.settings import Settings
from shrinkc.training.state import normalizations
from shrinkc.training.teacher import Answers, Asked, Teacher
from shrinkc.training.teaching import objective_of, teachers

LEAST_HELD_OUT = 32
"""Fewer samples than this judge nothing: then all are trained on and all judge."""

POOLED_HELD_OUT = 1024
"""Fewer held-out samples without labels are brought up to this by augmented copies: the teacher knows their answers."""

MOST_HELD_OUT = 1024
"""More tell hardly better which of two models is the better one, and they are looked at a score of times in a phase: nine
thousand of sixty thousand samples took two thirds of three minutes."""

LEAST_NORMALISED = 8
"""Fewer samples at a time have statistics too rough to train by; where to draw the line is ours.

Wu, He. Group Normalization. ECCV 2018: errors grow quickly with smaller batches; with 2 samples of ImageNet that of ResNet-50
is 10.6 points above what normalisation by groups of channels gives, with usual batches hardly different from it.
"""

EVALUATION_BATCH = 256

CACHE_BYTES = 1 << 30
"""Most bytes of the teacher's answers that are kept."""


def prepared(
    lesson: Lesson,
    settings: Settings,
    world: World,
    progress: Progress,
    interrupts: Interrupts,
    checkpoint: Path | None = None,
) -> Context:
    """Context of a training run; the executor holds the student's weights.

    Raises
    ------
    RecipeError
        Settings do not fit the data, or the checkpoint is another run's.
    RuntimeUnavailable
        The device is not there.
    """
    executor, unit = running_batches(lesson.student, lesson.data, lesson.features if settings.feature_weight else ())
    _check(lesson, settings, world, unit)
    _enter(lesson, settings, world)
    _lay_out_on(executor, settings.device)
    training, judging = _divided(lesson, settings, unit)
    classes, label_output = _labelling(lesson, settings, _outputs(executor, judging, settings, unit))
    if world.size > 1:
        executor.normalize_by(batch_norm)
    teacher, judge = teachers(lesson, settings, judging)
    batch = unit or EVALUATION_BATCH
    with progress.stage("asking the teacher"):
        answers = Answers({} if judge is None else judge.answers(judging, batch))
        objective = objective_of(lesson, teacher, training, settings, classes, label_output)
        feeder = _feeder(training, teacher, settings, world, unit)
    few = next(batches(judging, answers, batch))
    settings = _agreed(settled(settings, executor, objective.judging(), few), world)
    context = Context(
        lesson.student,
        executor,
        settings,
        feeder,
        objective,
        judging,
        answers,
        world,
        progress,
        Checkpoints(checkpoint, fingerprint(lesson, settings)),
        interrupts,
        evaluation_batch=batch,
        n_trained=len(training),
        teacher=lesson.teacher,
    )
    world.same_(list(context.tensors.values()))
    return context


def _enter(lesson: Lesson, settings: Settings, world: World) -> None:
    """Take the device that is this process's, and see that all processes train the same.

    Raises
    ------
    RecipeError
        They do not.
    """
    if settings.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world.size > 1:
        world.check_same(
            outline(lesson, settings),
            "the processes do not train the same",
            "the same model, data and settings everywhere; times measured by each process lead to models of their own",
            settings.device,
        )


def _agreed(settings: Settings, world: World) -> Settings:
    """Settings with the precision that the first process chose."""
    is_half = world.agreed([float(settings.precision == "bfloat16")], settings.device)[0] == 1.0
    return replace(settings, precision="bfloat16" if is_half else "float32")


def running_batches(model: ir.Model, data: Data, features: Sequence[Feature] = ()) -> tuple[Executor, int | None]:
    """Executor of a model, and how many samples it takes at a time: None for any.

    A model for one at a time is run for many where it can be, ``features`` included
    (:func:`shrinkc.training.any_batch.for_any_batch`).
    """
    found = for_any_batch(model, data, [feature.name for feature in features])
    return (Executor(model), fixed_batch(model)) if found is None else (found, None)


def _lay_out_on(executor: Executor, device: str) -> None:
    """Bring a student to a device.

    Raises
    ------
    RecipeError
        It has nothing to train.
    """
    executor.to(device)
    if not executor.trainable():
        raise RecipeError("there is nothing to train", because="no layer of the model reads a stored float weight")
    lay_out(executor)


def _labelling(lesson: Lesson, settings: Settings, outputs: Tensors) -> tuple[tuple[str, ...], str]:
    """Outputs that hold scores of classes, and the one that the labels are of."""
    classes = classes_of(lesson.student, outputs, settings.classes)
    return classes, _label_output(lesson, settings, outputs, classes)


def _label_output(lesson: Lesson, settings: Settings, outputs: Tensors, classes: Sequence[str]) -> str:
    """Name of the output that the labels are of; empty where there are none, or a teacher without classes leaves them unread.

    Raises
    ------
    RecipeError
        They fit none.
    """
    labels = lesson.data.labels
    if labels is None or (lesson.teacher is not None and not classes):
        return ""
    try:
        return labelled(outputs, classes, torch.from_numpy(np.asarray(labels)))
    except RecipeError:
        if lesson.teacher is not None and settings.label_weight == 0:
            return ""  # nobody asked for them
        raise


def _outputs(executor: Executor, samples: Samples, settings: Settings, unit: int | None) -> Tensors:
    """What the student makes of one sample, or one batch of a model of a fixed one."""
    few = next(samples.parts(unit or 1))
    with torch.inference_mode():
        found: Tensors = executor.eval()({name: tensor.to(settings.device) for name, tensor in few.inputs.items()})
    return {name: found[name] for name in executor.output_names}


def _divided(lesson: Lesson, settings: Settings, unit: int | None) -> tuple[Samples, Samples]:
    """Samples to train on, and samples to judge by."""
    given = Samples.of(lesson.data)
    share = min(settings.held_out, MOST_HELD_OUT / max(1, len(given)))
    trained, judged = held_out(len(given), share, unit or 1, LEAST_HELD_OUT)
    judging = given.take(judged)
    if lesson.teacher is not None and lesson.data.labels is None:
        kinds = tuple(name for name in settings.augment if name != "mix")  # of mixtures nobody asks what they are
        judging = pooled(judging, replace(settings, augment=kinds), POOLED_HELD_OUT)
    return given.take(trained), judging


def lay_out(executor: Executor) -> None:
    """Lay weights of convolutions out channels last, as processors and accelerators like them; values stay the same."""
    for parameter in executor.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _check(lesson: Lesson, settings: Settings, world: World, unit: int | None) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeUnavailable("torch finds no CUDA device", where="device = cuda", hint='device = "cpu"')
    if lesson.teacher is None and lesson.data.labels is None:
        raise RecipeError(
            "there is nothing to learn from", because="no labels, and no teacher", hint='teacher = "original", or labels'
        )
    if lesson.teacher is None and "mix" in settings.augment:
        raise RecipeError("mixed images have no labels", where="augment", hint='teacher = "original"')
    if settings.augment and not has_images(lesson.data):
        raise RecipeError("there are no images to augment", where="augment", because="no input of shape (N, C, H, W)")
    if world.size > 1 and settings.batch_norm != "frozen" and unit is not None:
        raise RecipeError(
            "processes do not share the statistics of a batch where the model fixes its size",
            where='batch_norm = "batch"',
            hint='batch_norm = "frozen", or one process',
        )
    if uses_batches(settings) and not has_enough_to_normalise(lesson.student, unit):
        raise RecipeError(
            "statistics of so few samples say nothing",
            where=f"batch of {unit} that the model fixes",
            hint='batch_norm = "frozen" and reestimate = false, or an export with a free batch',
        )
    if min(settings.batch, lesson.data.n_samples) // (unit or 1) < world.size:
        raise RecipeError("fewer samples a step than processes", where=f"batch = {settings.batch}")


def uses_batches(settings: Settings) -> bool:
    """Whether normalisations are to see the samples of a batch together."""
    return settings.batch_norm != "frozen" or settings.reestimate


def has_enough_to_normalise(model: ir.Model, unit: int | None) -> bool:
    """Whether ``unit`` samples at a time have statistics of use; so has a model without normalisations."""
    return unit is None or unit >= LEAST_NORMALISED or not normalizations(model)


def _feeder(samples: Samples, teacher: Teacher | None, settings: Settings, world: World, unit: int | None) -> Feeder:
    batch = max(settings.batch, unit or 1)
    fresh = bool(settings.augment) and not settings.pool
    if teacher is None or fresh:
        return Feeder(samples, settings, world, batch, teacher, is_augmented=fresh, unit=unit)
    feeder = Feeder(pooled(samples, settings, settings.pool), settings, world, batch, teacher, unit=unit)
    return replace(feeder, asked=_asked(feeder, teacher)) if _fit(feeder.samples, teacher, unit) else feeder


def _asked(feeder: Feeder, teacher: Teacher) -> Asked:
    order, unit = feeder.order(0), feeder.unit or 1
    block = max(1, order.size // feeder.world.size // unit) * unit
    return Asked(teacher, feeder.samples, order.epoch(0), block)


def _fit(samples: Samples, teacher: Teacher, unit: int | None) -> bool:
    """Whether the teacher's answers for all samples fit into memory."""
    few = next(samples.parts(unit or 1))
    size = sum(value.numel() * value.element_size() for value in teacher.targets(few.inputs).values())
    return size * len(samples) / len(few) <= CACHE_BYTES
