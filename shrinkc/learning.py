"""Training by a recipe: load, train, write, measure, report."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.api import RunConfig, RuntimeAdapter
from shrinkc.errors import RecipeError, VerificationError
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence import quality as evidence_quality
from shrinkc.evidence import sources
from shrinkc.evidence.data import Data
from shrinkc.evidence.quality import Quality
from shrinkc.files import sha256, write_text
from shrinkc.log import Progress, Silent
from shrinkc.measuring import QUALITY_BATCH
from shrinkc.opening import analysed, loaded
from shrinkc.report import facts
from shrinkc.report.json import dumps
from shrinkc.report.training import TrainingReport
from shrinkc.training import recipe_files
from shrinkc.training.distill import Feature
from shrinkc.training.lesson import Lesson
from shrinkc.training.running import Trained, trained
from shrinkc.training.settings import Settings
from shrinkc.training.waypoints import features_for

RUNTIME = "onnxruntime-cpu"

FileName = str | os.PathLike[str]


def train(
    model: FileName,
    *,
    data: FileName,
    recipe: FileName | None = None,
    output: FileName | None = None,
    eval_data: FileName | None = None,
    preprocess: str | None = None,
    samples: int | None = None,
    checkpoint: FileName | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> TrainingReport:
    """Train an ONNX model by a recipe and write it back as ONNX.

    Parameters
    ----------
    model : path
        The ``.onnx`` file; it is never changed.
    data : str or path
        Samples, with labels where the recipe has no teacher; see :mod:`shrinkc.evidence.sources`.
    recipe : str or path, optional
        Training recipe, by name or as a TOML file; without one ``method`` must be among the settings, and its own is taken.
    output : path, optional
        Trained model, by default ``NAME.trained.onnx`` in the current folder; beside it lies a report, which holds the resolved
        recipe.
    eval_data : str or path, optional
        Samples that quality is measured on with the runtime at hand.
    preprocess : str, optional
        How images become inputs.
    samples : int, optional
        Most samples to read of each source.
    checkpoint : path, optional
        Where the run writes how far it is, and goes on from if it was interrupted.
    progress : Progress, optional
    **settings
        Fields of :class:`shrinkc.training.settings.Settings`, over the recipe's.

    Returns
    -------
    TrainingReport

    Raises
    ------
    ShrinkcError
        One of its kinds; after a TrainingError that came after the first step the best model so far is at ``output``, after a
        VerificationError what was trained is at ``NAME.rejected.onnx`` beside it.
    """
    progress, source = progress or Silent(), Path(model)
    resolved = recipe_files.resolve(recipe, **settings)
    target = Path(output) if output is not None else Path(f"{source.stem}.trained.onnx")
    _check_paths(source, target, checkpoint, eval_data, data)
    runtime: RuntimeAdapter = registry.load("runtimes", RUNTIME)()
    with loaded(source, progress) as student, loaded(source, progress) as original:
        given, judged = sources.load_given(data, eval_data, student, preprocess, samples)
        if given is None:
            raise RecipeError("training needs data", where="--data")
        teacher = original if resolved.teacher == "original" else None
        lesson = Lesson(student, teacher, given, _features(student, given, resolved), runtime)
        result = trained(lesson, resolved, progress, None if checkpoint is None else Path(checkpoint))
        written = _rejected(target) if isinstance(result.error, VerificationError) else target
        with progress.stage("writing the model"):
            shrinkc_ir.save(result.model, written)
    if result.error is not None:
        result.error.also_try(f"the best model so far is at {written}")
        raise result.error
    quality = _quality(source, target, judged, runtime, progress) if eval_data is not None and judged is not None else Quality()
    return _written(_report(source, target, resolved, result, given, quality), target)


def _rejected(target: Path) -> Path:
    return target.with_name(target.name.removesuffix(".onnx") + ".rejected.onnx")


def _features(student: ir.Model, data: Data, settings: Settings) -> list[Feature]:
    """Values inside that are compared with the original's: all of their channels are there."""
    if not settings.feature_weight or settings.teacher == "none":
        return []
    analysis = analysed(student, data)
    return features_for(analysis, analysis.keep_mask({}), student, settings.features)


def _check_paths(source: Path, target: Path, checkpoint: FileName | None, eval_data: FileName | None, data: FileName) -> None:
    if target.suffix != ".onnx":
        raise RecipeError("the output must be an .onnx file", where=str(target))
    read = {Path(path).resolve() for path in (source, data, eval_data) if path is not None}
    written = [target, *([] if checkpoint is None else [Path(checkpoint)])]
    for path in written:
        if path.resolve() in read or [other.resolve() for other in written].count(path.resolve()) > 1:
            raise RecipeError(
                "a result would overwrite a file that this run reads or writes", where=str(path), hint="another name"
            )


def _quality(before: Path, after: Path, judged: Data, runtime: RuntimeAdapter, progress: Progress) -> Quality:
    with progress.stage(f"measuring quality on {judged.n_samples} samples"):
        sessions = [runtime.load(path, RunConfig()) for path in (before, after)]
        batch = evidence_data.fixed_batch(shrinkc_ir.load(before)) or QUALITY_BATCH
        return evidence_quality.measure(sessions[0], sessions[1], judged, batch)


def _report(source: Path, target: Path, settings: Settings, result: Trained, data: Data, quality: Quality) -> TrainingReport:
    context = result.context
    return TrainingReport(
        model=source.name,
        model_sha256=sha256(source),
        output=str(target),
        output_sha256=sha256(target),
        settings=result.context.settings.to_json(),
        samples=result.n_trained,
        held_out=data.n_samples - result.n_trained,
        steps=context.steps_done,
        seconds=result.seconds,
        processes=context.world.size,
        inside=context.objective.inside,
        before=asdict(result.before),
        after=asdict(result.after),
        phases=tuple(context.records),
        density=context.masks.density(),
        masks_sha256=context.masks.hash() if context.masks else "",
        quality=quality,
        stopped=result.stopped,
        versions=facts.versions(),
        machine=facts.machine(),
    )


def _written(report: TrainingReport, target: Path) -> TrainingReport:
    beside = target.with_name(target.name.removesuffix(".onnx") + ".training.json")
    report = replace(report, files={"model": str(target), "report": str(beside)})
    write_text(beside, dumps(report))
    return report
