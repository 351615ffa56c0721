"""From a model, data and settings to a context that can be trained."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from shrinkc import ir as shrinkc_ir
from shrinkc.api import RuntimeAdapter
from shrinkc.errors import RecipeError, RuntimeUnavailable
from shrinkc.evidence.data import Data, fixed_batch
from shrinkc.log import Progress
from shrinkc.training.augment import is_image
from shrinkc.training.autocasting import settled
from shrinkc.training.checkpoint import Checkpoints
from shrinkc.training.context import Context
from shrinkc.training.distill import Distillation, Feature, classes_of, distances_for, labelled, made_by
from shrinkc.training.distributed import World, batch_norm
from shrinkc.training.evaluation import batches
from shrinkc.training.executor import Executor
from shrinkc.training.feeding import Feeder, pooled
from shrinkc.training.interrupts import Interrupts
from shrinkc.training.lifting import lift_weights
from shrinkc.training.objective import Objective
from shrinkc.training.samples import Samples, Tensors, held_out
from shrinkc.training.settings import Settings
from shrinkc.training.teacher import Answers, Asked, Forward, Teacher, by_runtime

LEAST_HELD_OUT = 32
"""Fewer samples than this judge nothing: then all are trained on and all judge."""

POOLED_HELD_OUT = 1024
"""Fewer held-out samples without labels are brought up to this by augmented copies: the teacher knows their answers."""

MOST_HELD_OUT = 1024
"""More tell hardly better which of two models is the better one, and they are looked at a score of times in a phase: nine
thousand of sixty thousand samples took two thirds of three minutes."""

PROBED = 256
"""Samples that say how far the teacher's values are spread."""

TURNED = 8
"""Samples that tell which values have a row for each."""

EVALUATION_BATCH = 256

CACHE_BYTES = 1 << 30
"""Most bytes of the teacher's answers that are kept."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is to be trained, on what, by whom.

    Attributes
    ----------
    student : ir.Model
    teacher : ir.Model or None
    data : Data
    features : sequence of Feature
        Values inside that both have.
    runtime : RuntimeAdapter
        Of the teacher, on a processor.
    given : ir.Model or None
        What the student was made of, where a method rewrote it.
    """

    student: ir.Model
    teacher: ir.Model | None
    data: Data
    features: Sequence[Feature]
    runtime: RuntimeAdapter
    given: ir.Model | None = None


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
    _check(lesson, settings, world)
    if settings.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world.size > 1:
        world.check_same(
            _outline(lesson, settings),
            "the processes do not train the same",
            "the same model, data and settings everywhere; times measured by each process lead to models of their own",
            settings.device,
        )
    unit = fixed_batch(lesson.student)
    training, judging = _divided(lesson, settings, unit)
    executor = Executor(lesson.student).to(settings.device)
    if not executor.trainable():
        raise RecipeError("there is nothing to train", because="no layer of the model reads a stored float weight")
    lay_out(executor)
    outputs = _outputs(executor, judging, settings, unit)
    classes = classes_of(lesson.student, outputs, settings.classes)
    label_output = _label_output(lesson, settings, outputs, classes)
    if world.size > 1:
        executor.normalize_by(batch_norm)
    features = _features(lesson, settings, judging, unit)
    teacher = _teacher(lesson, features, settings, unit)
    judge = _teacher(lesson, (), settings, unit) if features else teacher
    batch = unit or EVALUATION_BATCH
    with progress.stage("asking the teacher"):
        answers = Answers({} if judge is None else judge.answers(judging, batch))
        objective = _objective(lesson, teacher, training, settings, classes, label_output)
        feeder = _feeder(training, teacher, settings, world, unit)
    chosen = settled(settings, executor, objective.judging(), next(batches(judging, answers, batch)))
    is_half = world.agreed([float(chosen.precision == "bfloat16")], settings.device)[0] == 1.0
    settings = replace(settings, precision="bfloat16" if is_half else "float32")
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
        Checkpoints(checkpoint, _fingerprint(lesson, settings)),
        interrupts,
        evaluation_batch=batch,
        n_trained=len(training),
        teacher=lesson.teacher,
    )
    world.same_(list(context.tensors.values()))
    return context


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


def _check(lesson: Lesson, settings: Settings, world: World) -> None:
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
    unit = fixed_batch(lesson.student)
    if world.size > 1 and settings.batch_norm != "frozen" and unit is not None:
        raise RecipeError(
            "processes do not share the statistics of a batch where the model fixes its size",
            where='batch_norm = "batch"',
            hint='batch_norm = "frozen", or one process',
        )
    if min(settings.batch, lesson.data.n_samples) // (unit or 1) < world.size:
        raise RecipeError("fewer samples a step than processes", where=f"batch = {settings.batch}")


def has_images(data: Data) -> bool:
    """Whether an input looks like images."""
    return any(_may_be_image(array) for array in data.inputs.values())


def _may_be_image(array: np.ndarray) -> bool:
    return is_image(torch.empty(array.shape, device="meta")) if np.issubdtype(array.dtype, np.floating) else False


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


def _objective(
    lesson: Lesson,
    teacher: Teacher | None,
    samples: Samples,
    settings: Settings,
    classes: tuple[str, ...],
    label_output: str,
) -> Objective:
    if teacher is None:
        return Objective(None, label_smoothing=settings.label_smoothing, classes=classes, labelled=label_output)
    probe = Samples({name: tensor[:PROBED] for name, tensor in samples.inputs.items()}, None)
    if teacher.unit is not None:
        probe = next(probe.parts(max(teacher.unit, PROBED // teacher.unit * teacher.unit)))
    values = teacher.targets(probe.inputs)
    outputs = {value.name for value in lesson.student.graph.outputs}
    inside = {feature.name: values.pop(feature.name) for feature in teacher.features if feature.name not in outputs}
    distances = distances_for(
        values, classes, _probabilities(lesson), settings.logit_loss, settings.other_loss, settings.temperature
    )
    if not distances:
        raise RecipeError("no output can be distilled", because="all of them are whole numbers", hint="labels")
    features = distances_for(inside, (), (), "mse", "mse", 1.0)
    is_labelled = bool(label_output) and "mix" not in settings.augment  # mixed images have no labels
    return Objective(
        Distillation(distances, features, settings.feature_weight),
        settings.label_weight if is_labelled else 0.0,
        settings.label_smoothing,
        classes,
        label_output,
    )


def _probabilities(lesson: Lesson) -> list[str]:
    """Outputs that are probabilities already."""
    return [
        value.name or ""
        for value in lesson.student.graph.outputs
        if (node := made_by(value)) is not None and node.op_type == "Softmax"
    ]


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


def _outline(lesson: Lesson, settings: Settings) -> str:
    """What all processes must have alike: settings, and the names and shapes of weights and samples."""
    tensors = {name: str(value.shape) for name, value in lesson.student.graph.initializers.items()}
    samples = {name: [str(array.dtype), *array.shape] for name, array in lesson.data.inputs.items()}
    return json.dumps([settings.to_json(), sorted(tensors.items()), sorted(samples.items())], sort_keys=True)


def _structure(model: ir.Model) -> Iterator[bytes]:
    """All that a model computes beside its weights."""
    yield repr([value.name for value in (*model.graph.inputs, *model.graph.outputs)]).encode()
    for node in model.graph:
        yield ir.serde.serialize_node(node).SerializeToString(deterministic=True)
    for function in model.functions.values():
        yield ir.serde.serialize_function(function).SerializeToString(deterministic=True)


def _fingerprint(lesson: Lesson, settings: Settings) -> str:
    """Hash of everything that the result depends on."""
    digest = hashlib.blake2b(json.dumps(settings.to_json(), sort_keys=True).encode())
    for model in (lesson.given or lesson.student, lesson.teacher):
        if model is not None:
            lift_weights(copy := model.clone())  # what stands in nodes counts as well
            for part in _structure(copy):
                digest.update(part)
            for name, value in sorted(copy.graph.initializers.items()):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(shrinkc_ir.stored_array(value)).tobytes())
    arrays = dict(lesson.data.inputs)
    if lesson.data.labels is not None:
        arrays["labels"] = lesson.data.labels
    for name, array in sorted(arrays.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
