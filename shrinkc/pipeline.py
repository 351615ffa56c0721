"""The one way through: load, analyse, plan, cut, prove, write, measure, report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from shrinkc import blas_threads, emitting, merging, planning, recipe_files, recovering, registry, target, timing
from shrinkc import ir as shrinkc_ir
from shrinkc import plan as plans
from shrinkc.api import FloatArray, RunConfig, RuntimeAdapter
from shrinkc.artifacts import Artifacts, check_paths
from shrinkc.calibrating import for_recovery, makes_up_data, needs_data, needs_gradients, shared_out
from shrinkc.carrying_out import built, recovered
from shrinkc.deciding import check_not_empty, decided
from shrinkc.errors import GateError, RecipeError, ShrinkcError
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence import gradients as evidence_gradients
from shrinkc.evidence import sources
from shrinkc.evidence.data import Data
from shrinkc.factorising import Factorising, layer_times
from shrinkc.files import write_text
from shrinkc.latency.probe import Comparison
from shrinkc.launching import is_launched
from shrinkc.log import Progress, Silent
from shrinkc.measuring import measured
from shrinkc.memory import Memory
from shrinkc.opening import Opened, loaded, open_model
from shrinkc.pacing import missed
from shrinkc.plan import Plan
from shrinkc.planning import Planned
from shrinkc.recipe import CHANNELS, Recipe
from shrinkc.recovering import Recovered
from shrinkc.report.model import Report
from shrinkc.reporting import carried_out, predicted, write_recipe, written
from shrinkc.run import Run
from shrinkc.timing import Timed

DEFAULT_RECIPE = "default"
"""What is done with data where nothing was asked for; flags override single settings.  Without data channels are removed by
magnitude and nothing else is changed."""

SLOWER_NOTE = "The compressed model measures SLOWER than the original on this machine."

CHECK_RUNTIME = "onnxruntime-cpu"
"""Runtime of the proof and of the quality measurement, whatever the target."""


def compress(
    model: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    eval_data: str | os.PathLike[str] | None = None,
    preprocess: str | None = None,
    samples: int | None = None,
    gradients: str | os.PathLike[str] | None = None,
    plan: str | os.PathLike[str] | None = None,
    save_plan: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    threads: int = 1,
    measure_latency: bool = True,
    latency_table: str | os.PathLike[str] | None = None,
    latency_cache: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    memory: Memory | None = None,
    **settings: Any,
) -> Report:
    """Compress an ONNX model, prove the result and measure it.

    Parameters
    ----------
    model : path
        The trained ``.onnx`` file; it is never changed.
    output : path, optional
        Compressed model, by default ``NAME.shrunk.onnx`` in the current folder; the reports are written beside it.
    data : str or path, optional
        ``.npz`` with the input names as keys and, optionally, ``labels``; an ``.npy`` for a model of one input; a folder of
        either; a folder of images; or ``module:callable``.  See :mod:`shrinkc.evidence.sources`.
    eval_data : str or path, optional
        Samples quality is measured on, by default those of ``data``.
    preprocess : str, optional
        How images become inputs: name of a preset, or path of a TOML file.
    samples : int, optional
        Most samples to read of each source, by default all of a file and 1024 of anything else.
    gradients : path, optional
        ``.npz`` of gradients of a loss under the names of the weights, for criteria that ask for them.
    plan : path, optional
        A saved plan to replay instead of making one.
    save_plan : path, optional
        Where to write the plan.
    checkpoint : path, optional
        Where recovery writes how far it is, and takes up from if it was interrupted.
    threads : int
        Of the latency measurement.
    measure_latency : bool
    latency_table : path, optional
        Times of layers recorded on the target (``shrinkc targets calibrate``); by default they are measured on this machine, if
        the target is it, or else estimated from the target's profile.
    latency_cache : path, optional
        Folder of times measured here, by default where the system keeps caches.
    dry_run : bool
        Write the resolved recipe and the plan, nothing else.
    progress : Progress, optional
        Told what is going on; silent by default.
    memory : Memory, optional
        Of runs over the same model and samples: what they found out is not worked out again.
    **settings
        Fields of :class:`shrinkc.recipe.Recipe`: ``target``, ``macs``, ``prune_ratio`` and so on; and ``recipe``, the name or
        file of settings that they override.

    Returns
    -------
    Report

    Raises
    ------
    ShrinkcError
        One of its kinds, each with its exit code; see :mod:`shrinkc.errors`.

    Examples
    --------
    >>> import shrinkc
    >>> report = shrinkc.compress("model.onnx", macs="50%", data="samples.npz")  # doctest: +SKIP
    >>> report.after.macs / report.before.macs  # doctest: +SKIP
    0.49
    """
    progress = progress or Silent()
    saved = None if plan is None else plans.read(plan)
    if saved is not None:
        settings = {**_settings_of(saved), **settings}
    if saved is None and settings.get("recipe") is None and data is not None:
        settings["recipe"] = DEFAULT_RECIPE
    recipe = recipe_files.resolve(**settings)
    source = Path(model)
    artifacts = Artifacts(
        Path(output) if output is not None else Path(f"{source.stem}.shrunk.onnx"), _path(save_plan), _path(checkpoint)
    )
    # Times measured by several processes would lead each to a model of its own.
    times_layers = measure_latency and not dry_run and not is_launched()
    emitting.check_folder(artifacts.output, target.load(recipe.target))
    check_paths(artifacts, read=[source, *map(_path, (data, eval_data, preprocess, gradients, plan))])
    with loaded(source, progress) as opened_model, blas_threads.limited(0 if saved is None else saved.blas_threads):
        stored = [Path(os.fspath(tensor.path)) for tensor in shrinkc_ir.external_tensors(opened_model)]
        check_paths(artifacts, read=stored)
        given, judged = sources.load_given(data, eval_data, opened_model, preprocess, samples)
        runtime: RuntimeAdapter = registry.load("runtimes", CHECK_RUNTIME)()
        merge = merging.merge_for(runtime, threads, progress, is_timed=times_layers) if recipe.merge_factors else None
        opened = open_model(source, recipe, given or judged, opened_model, progress, merge)
        for real in (given, judged):
            if real is not None:
                evidence_data.check_labels(real, [opened.analysis.shadow.shape(value) for value in opened_model.graph.outputs])
        is_made_up = makes_up_data(recipe, is_replay=saved is not None)
        recovering.check(recipe, opened.model, given, makes_up_data=is_made_up)
        is_differentiated = saved is None and gradients is None and given is not None and needs_gradients(recipe)
        is_looked_at = is_differentiated or needs_data(recipe, is_replay=saved is not None)
        shared = shared_out(opened, recipe, is_looked_at, given, judged if eval_data is not None else None)
        tables = timing.Sources(_path(latency_table), _path(latency_cache) or timing.cache_folder())
        timed = _timed(opened, recipe, runtime, threads, tables, progress) if saved is None else None
        opened = opened if timed is None else timing.with_forecast(opened, timed)
        shared = for_recovery(shared, opened, recipe)
        times = layer_times(opened, recipe, runtime, threads, tables) if times_layers else None
        factorising = Factorising(opened, recipe, shared.calibration, runtime, progress, times, timed)
        run = Run(opened, recipe, artifacts, shared, runtime, progress, factorising, threads, timed, memory)
        if saved is None:
            known: Mapping[str, FloatArray] = {} if gradients is None else evidence_gradients.load(gradients, opened.analysis)
            if is_differentiated and run.samples.calibration is not None:
                known = _gradients(run, run.samples.calibration)
            chosen = decided(run, known)
        else:
            chosen = Planned(planning.replayed(saved, opened.analysis, opened.sha256, str(plan)), {})
        if not opened.merged:
            check_not_empty(chosen.plan, opened.analysis, recipe)
        if dry_run:
            write_text(artifacts.plan or artifacts.beside(".plan.json"), plans.dumps(chosen.plan))
            write_recipe(recipe, artifacts)
            return predicted(run, chosen)
        return _carry_out(run, chosen, measure_latency)


def _gradients(run: Run, samples: Data) -> Mapping[str, FloatArray]:
    return run.remembered(("gradients",), samples, lambda: recovering.gradients_from(run.opened, samples, run.progress))


def _timed(
    opened: Opened, recipe: Recipe, runtime: RuntimeAdapter, threads: int, tables: timing.Sources, progress: Progress
) -> Timed | None:
    """Times of the layers, where a budget asks for them or a table gives them, or what is factorised runs elsewhere."""
    chosen = target.load(recipe.target)
    if recipe.latency_budget() is not None and tables.table is None and is_launched():
        raise RecipeError("every process would measure times of its own", where="--latency", hint="--latency-table FILE")
    if recipe.latency_budget() is not None or tables.table is not None:
        return timing.timed(opened, chosen, runtime, RunConfig(threads=threads), tables, progress)
    return timing.estimated(opened, chosen) if recipe.method != CHANNELS and not chosen.is_here else None


def _settings_of(saved: Plan) -> dict[str, Any]:
    """Settings that a replay takes from the plan: what the groups are, and how the rest is repaired."""
    names = ["prune", "independent_groups", "compensation"]
    if saved.ranks:
        names += ["method", "factorization", "forms", "round_to"]
    return {name: saved.settings[name] for name in names if saved.settings.get(name) is not None}


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


def _carry_out(run: Run, chosen: Planned, measure_latency: bool) -> Report:
    opened, artifacts = run.opened, run.artifacts
    made = built(run, chosen.plan)
    learnt = _learnt(run, chosen, made.model)
    if artifacts.plan is not None:
        changed = tuple(dict.fromkeys((*made.repair.tensors, *learnt.tensors)))
        fitted = replace(chosen.plan, compensated=changed, blas_threads=blas_threads.number() if changed else 0)
        write_text(artifacts.plan, plans.dumps(fitted))
    size = _saved(run, made.model)
    if learnt.error is not None:
        learnt.error.also_try(f"the best model so far is at {artifacts.output}")
        raise learnt.error
    write_recipe(run.recipe, artifacts)
    report = carried_out(run, chosen, made, learnt, size)
    judged = run.samples.evaluation
    report = measured(report, opened, artifacts.output, run.runtime, judged, run.threads, measure_latency, run.progress)
    return _judged(run, _emitted(run, report))


def _learnt(run: Run, chosen: Planned, model: ir.Model) -> Recovered:
    """Recovery of a model that is cut; where it cannot even begin, what took so long to make is written all the same.

    Not where something was asked for that cannot be: the file may be the result of an earlier run.
    """
    try:
        return recovered(run, model, chosen.plan)
    except RecipeError:
        raise
    except Exception as error:
        with suppress(OSError):  # what went wrong first is what counts
            _saved(run, model)
            if isinstance(error, ShrinkcError):
                error.also_try(f"the model, cut and not recovered, is at {run.artifacts.output}")
        raise


def _saved(run: Run, model: ir.Model) -> int:
    """Bytes written."""
    with run.progress.stage("writing the model"):
        # Weights that came in a file of their own leave in one.
        limit = shrinkc_ir.INLINE_LIMIT_BYTES if run.opened.has_data_file else shrinkc_ir.PROTOBUF_LIMIT_BYTES
        return shrinkc_ir.save(model, run.artifacts.output, single_file_bytes=limit)


def _emitted(run: Run, report: Report) -> Report:
    """The report, once what a target needs beside the model is written."""
    chosen = target.load(run.recipe.target)
    if not emitting.is_wanted(chosen):
        return report
    with run.progress.stage(f"writing what {chosen.name} needs"):
        judged = run.samples.evaluation
        made = emitting.emit(run.artifacts.output, run.opened, chosen, run.runtime, judged)
    folder = emitting.folder_of(run.artifacts.output, chosen)
    notes = [f"{one.file} for {chosen.name}: {one.checked}; {one.verdict}." for one in made.variants]
    notes += [f"Not made for {chosen.name}: {failure}." for failure in made.failures]
    return replace(report, notes=(*report.notes, *notes), files={"target": str(folder)})


def _judged(run: Run, report: Report) -> Report:
    """The report, written; a model that is not as fast as was asked for is set aside.

    Raises
    ------
    GateError
    """
    if report.latency is None:
        return written(report, run.artifacts)
    failure = _failure(run, report, report.latency)
    if report.latency.fair_speedup < 1:
        report = replace(report, notes=(SLOWER_NOTE, *report.notes))
    if not failure:
        return written(report, run.artifacts)
    rejected = run.artifacts.beside(".rejected.onnx")
    os.replace(run.artifacts.output, rejected)
    written(replace(report, output=str(rejected), notes=(f"REJECTED: {failure}.", *report.notes)), run.artifacts)
    raise GateError(failure, where=str(run.artifacts.output), hint=f"the model is kept at {rejected}; ask for less")


def _failure(run: Run, report: Report, measured: Comparison) -> str:
    """What is to be said against a model that was to be so fast; empty if it is, or nothing here can tell."""
    budget = run.recipe.latency_budget()
    if budget is None or run.timed is None or run.timed.stopwatch is None:
        return ""
    wanted = run.timed.stopwatch.runtime.name
    if report.latency_runtime == wanted:
        return missed(budget, measured)
    reasons = [level.detail for level in report.runtimes if level.runtime == wanted]
    return f"it could not be timed on {wanted}: {'; '.join(reasons)}"
