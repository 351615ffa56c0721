"""The one way through: load, analyse, plan, cut, prove, write, measure, report."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from shrinkc import emitting, merging, planning, recipe_files, recovering, registry, target, timing, verify
from shrinkc import ir as shrinkc_ir
from shrinkc import plan as plans
from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.analysis.labels import Shape
from shrinkc.api import Evidence, FloatArray, Repaired, RunConfig, RuntimeAdapter
from shrinkc.calibrating import Samples, evidence_from, for_recovery, makes_up_data, needs_data, needs_gradients, shared_out
from shrinkc.canonicalize import canonicalize
from shrinkc.choosing import planned_in_turns
from shrinkc.edits import make_plan
from shrinkc.errors import BudgetError, GateError, RecipeError, VerificationError
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence import gradients as evidence_gradients
from shrinkc.evidence import sources
from shrinkc.evidence.quality import Quality
from shrinkc.factor_proof import FactorProof, prove_equal, prove_factors
from shrinkc.factorising import Factorising
from shrinkc.files import sha256, write_text
from shrinkc.log import Progress, Silent
from shrinkc.lowrank import Factorised, Times
from shrinkc.measuring import measured
from shrinkc.opening import Merge, Opened, counted_cost, loaded, open_model
from shrinkc.pacing import missed, paced
from shrinkc.plan import Plan
from shrinkc.planning import Planned
from shrinkc.recipe import CHANNELS, LOWRANK, Recipe
from shrinkc.recovering import Recovered
from shrinkc.repairing import repaired
from shrinkc.report import facts
from shrinkc.report import json as report_json
from shrinkc.report import markdown as report_markdown
from shrinkc.report.model import Calibration, Report, group_rows
from shrinkc.searching import largest_cut
from shrinkc.shapes import Shadow
from shrinkc.surgery import remove_channels
from shrinkc.target import Target
from shrinkc.timing import Timed
from shrinkc.verify import Proof

SIZE_TRIES = 4
"""How often a plan is made again because the written file is larger than its tensors suggested."""

LARGE_MODEL_BYTES = 32 << 20
"""Copies of models of this size are looked for and let go of after the proof: graphs refer to themselves, so that Python would
keep them, weights and all, until it happens to look."""

DEFAULT_RECIPE = "default"
"""What is done with data where nothing was asked for; flags override single settings.  Without data channels are removed by
magnitude and nothing else is changed."""

SLOWER_NOTE = "The compressed model measures SLOWER than the original on this machine."

CHECK_RUNTIME = "onnxruntime-cpu"
"""Runtime of the proof and of the quality measurement, whatever the target."""


@dataclass(frozen=True)
class Artifacts:
    """Where a run writes.

    Attributes
    ----------
    output : Path
        The compressed model; report and recipe lie beside it under the same stem.
    plan : Path or None
    checkpoint : Path or None
        Of the recovery.
    """

    output: Path
    plan: Path | None
    checkpoint: Path | None = None

    def written(self) -> list[Path]:
        """Every file a run may write."""
        results = [".onnx.data", ".report.json", ".report.md", ".recipe.json", ".rejected.onnx"]
        plan = self.plan or self.beside(".plan.json")
        progress = [] if self.checkpoint is None else [self.checkpoint]
        return [self.output, plan, *progress, *(self.beside(suffix) for suffix in results)]

    def beside(self, suffix: str) -> Path:
        """Path of the output with another suffix."""
        return self.output.with_name(self.output.name.removesuffix(".onnx") + suffix)


@dataclass(frozen=True)
class Run:
    """What the stages after opening share.

    Attributes
    ----------
    opened : Opened
    recipe : Recipe
    artifacts : Artifacts
    samples : Samples
    runtime : RuntimeAdapter
        Of the evidence, the proof and the measurements.
    progress : Progress
    factorising : Factorising
        Idle where the method is ``channels``.
    threads : int
        Of the latency measurements.
    timed : Timed or None
        What the forecast of latency rests on, where there is one.
    """

    opened: Opened
    recipe: Recipe
    artifacts: Artifacts
    samples: Samples
    runtime: RuntimeAdapter
    progress: Progress
    factorising: Factorising
    threads: int = 1
    timed: Timed | None = None


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
    _check_folder(artifacts, target.load(recipe.target))
    _check_paths(artifacts, read=[source, *map(_path, (data, eval_data, preprocess, gradients, plan))])
    with loaded(source, progress) as opened_model:
        stored = [Path(os.fspath(tensor.path)) for tensor in shrinkc_ir.external_tensors(opened_model)]
        _check_paths(artifacts, read=stored)
        given, judged = sources.load_given(data, eval_data, opened_model, preprocess, samples)
        runtime: RuntimeAdapter = registry.load("runtimes", CHECK_RUNTIME)()
        merge = _merge(runtime, threads, progress, is_timed=measure_latency and not dry_run) if recipe.merge_factors else None
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
        times = _layer_times(opened, recipe, runtime, threads) if measure_latency and not dry_run else None
        factorising = Factorising(opened, recipe, shared.calibration, runtime, progress, times)
        run = Run(opened, recipe, artifacts, shared, runtime, progress, factorising, threads, timed)
        if saved is None:
            known = {} if gradients is None else evidence_gradients.load(gradients, opened.analysis)
            if is_differentiated and run.samples.calibration is not None:
                known = recovering.gradients_from(opened, run.samples.calibration, progress)
            chosen = _plan(run, known)
        else:
            chosen = Planned(planning.replayed(saved, opened.analysis, opened.sha256, str(plan)), {})
        if not opened.merged:
            _check_not_empty(chosen.plan, opened.analysis)
        if dry_run:
            write_text(artifacts.plan or artifacts.beside(".plan.json"), plans.dumps(chosen.plan))
            return _predicted(run, chosen)
        return _carry_out(run, chosen, measure_latency)


def _timed(
    opened: Opened, recipe: Recipe, runtime: RuntimeAdapter, threads: int, tables: timing.Sources, progress: Progress
) -> Timed | None:
    """Times of the layers, where a budget asks for them or a table gives them."""
    if recipe.latency_budget() is None and tables.table is None:
        return None
    return timing.timed(opened, target.load(recipe.target), runtime, RunConfig(threads=threads), tables, progress)


def _settings_of(saved: Plan) -> dict[str, Any]:
    """Settings that a replay takes from the plan: what the groups are, and how the rest is repaired."""
    names = ["prune", "independent_groups", "compensation"]
    if saved.ranks:
        names += ["method", "factorization", "forms", "round_to"]
    return {name: saved.settings[name] for name in names if saved.settings.get(name) is not None}


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


def _layer_times(opened: Opened, recipe: Recipe, runtime: RuntimeAdapter, threads: int) -> Times | None:
    """Times of layers by themselves, where the target is this machine: what its CPU takes says nothing about another engine."""
    chosen = target.load(recipe.target)
    is_timed = chosen.is_here and chosen.runtime == runtime.name
    return Times(opened.model, opened.analysis.shadow, runtime, threads) if is_timed else None


def _merge(runtime: RuntimeAdapter, threads: int, progress: Progress, *, is_timed: bool) -> Merge:
    """Puts factors back together where the runtime prefers that, or counting does if nothing is timed; and proves it."""

    def merge(model: ir.Model, shapes: dict[str, Shape]) -> tuple[str, ...]:
        shadow = Shadow.of(model, shapes)
        before = model.clone()
        prefers = merging.by_time(model, shadow, runtime, threads) if is_timed else merging.by_work
        with progress.stage("putting factors back together"):
            merged = merging.merge_factors(model, shadow, prefers)
            if merged:
                prove_equal(before, model, shapes, runtime)
        return merged

    return merge


def _check_folder(artifacts: Artifacts, chosen: Target) -> None:
    folder = emitting.folder_of(artifacts.output, chosen)
    if emitting.is_wanted(chosen) and folder.exists() and not folder.is_dir():
        raise RecipeError("a result cannot be written there", where=str(folder), because="a file is in the way")


def _check_paths(artifacts: Artifacts, read: Sequence[Path | None]) -> None:
    """Refuse to write over anything that is read, or over another result."""
    if artifacts.output.suffix != ".onnx":
        raise RecipeError("the output must be an .onnx file", where=str(artifacts.output))
    taken = {path.resolve(): "is read by this run" for path in read if path is not None}
    for path in artifacts.written():
        if path.resolve() in taken:
            raise RecipeError(
                f"a result would overwrite a file that {taken[path.resolve()]}", where=str(path), hint="choose another name"
            )
        if path.is_dir() or any(parent.exists() and not parent.is_dir() for parent in path.parents):
            raise RecipeError("a result cannot be written there", where=str(path), because="a folder or file is in the way")
        taken[path.resolve()] = "this run writes too"


def _plan(run: Run, gradients: Mapping[str, FloatArray]) -> Planned:
    if run.recipe.only_merges:
        return Planned(make_plan(run.opened.analysis, {}, run.opened.sha256, run.recipe.to_json()), {})
    evidence = evidence_from(run.opened, run.recipe, run.samples.calibration, run.runtime, run.progress)
    if gradients:
        evidence = replace(evidence or Evidence(), gradients=gradients)

    def built(plan: Plan) -> ir.Model:
        return _built(run, plan, is_proved=False).model

    if run.recipe.max_drop is not None:
        return largest_cut(
            run.opened,
            run.recipe,
            run.samples,
            run.runtime,
            run.progress,
            planned_for=lambda recipe: _planned(run, recipe, evidence),
            built=built,
        )
    budget = run.recipe.latency_budget()
    if budget is not None and run.timed is not None and run.timed.basis == timing.MEASURED:
        return paced(
            run.opened,
            run.recipe,
            budget,
            run.runtime,
            run.threads,
            run.progress,
            planned_for=lambda recipe: _planned(run, recipe, evidence),
            built=built,
        )
    return _planned(run, run.recipe, evidence)


def _planned(run: Run, recipe: Recipe, evidence: Evidence | None) -> Planned:
    scored = None
    if recipe.method != LOWRANK:
        with run.progress.stage("scoring"):
            scored = planning.scored_by(run.opened.analysis, recipe, evidence)

    def plan_channels(known: Evidence | None) -> Planned:
        return _plan_within_size(run, recipe, known, partial(planning.planned_for, scored=scored))

    def plan_ranks(known: Evidence | None) -> Planned:
        work = run.factorising
        ranks = partial(planning.planned_with_ranks, scored=scored, sensitivity=work.sensitivity)
        return work.planned(lambda found: _plan_within_size(run, recipe, known, partial(ranks, found=found)))

    return planned_in_turns(
        run.opened,
        recipe,
        evidence,
        run.samples.calibration,
        run.runtime,
        run.progress,
        plan=plan_channels if recipe.method == CHANNELS else plan_ranks,
    )


def _check_not_empty(chosen: Plan, analysis: Analysis) -> None:
    if chosen.changes_nothing:
        raise BudgetError(
            "the plan removes nothing",
            because=_why_nothing(analysis),
            hint="lower --round-to or ask for more; `shrinkc inspect` lists what is tied and what must stay",
        )


def _plan_within_size(run: Run, recipe: Recipe, evidence: Evidence | None, plan: Callable[..., Planned]) -> Planned:
    """Plan whose written file meets the budget of bytes: what the graph itself takes is only known once it is cut."""
    opened = run.opened
    budgets = [budget.of(opened.cost.dense()) for budget in recipe.budgets()]
    limits = [budget.amount for budget in budgets if budget.quantity == "size_bytes"]
    cost, excess = opened.cost, 0
    for _ in range(SIZE_TRIES):
        with run.progress.stage("allocating"):
            planned = plan(opened.analysis, recipe, budgets, cost, opened.sha256, evidence)
        if not limits:
            return planned
        is_kept = opened.analysis.keep_mask(planned.plan.keep())
        size = shrinkc_ir.written_bytes(_cut(opened, recipe, is_kept))
        excess = size - cost.of(is_kept).size_bytes
        if size <= min(limits) or (planned.plan.ranks and excess <= 0):
            return planned
        cost = cost.plus_overhead(excess)
    raise BudgetError(
        "no plan was found whose file meets the budget", because=f"the graph itself takes {excess} bytes more than expected"
    )


def _cut(opened: Opened, recipe: Recipe, is_kept: BoolArray) -> ir.Model:
    pruned = remove_channels(opened.analysis, is_kept, opened.shapes)
    return canonicalize(pruned) if recipe.optimize else pruned


def _why_nothing(analysis: Analysis) -> str:
    tied = [group.name for group in analysis.groups if group.width == 1]
    if tied:
        return f"all channels of {', '.join(tied[:3])} are tied to each other, and no other group can get narrower"
    return "every group is at its smallest admissible width"


@dataclass(frozen=True, eq=False)
class Built:
    """A plan carried out: the model to write, and what is known of every step on the way."""

    model: ir.Model
    proof: Proof | None
    repair: Repaired
    factorised: Factorised | None = None
    factor_proof: FactorProof | None = None


def _built(run: Run, plan: Plan, *, is_proved: bool) -> Built:
    opened = run.opened
    is_kept = opened.analysis.keep_mask(plan.keep())
    with run.progress.stage("removing channels"):
        model = _cut(opened, run.recipe, is_kept)
    proof = _prove(run, model, is_kept) if is_proved and not plan.removes_nothing else None
    _let_go(opened)
    repair = Repaired() if plan.removes_nothing else _repaired(run, model, is_kept)
    if not plan.ranks:
        return Built(model, proof, repair)
    work = run.factorising.built(model, plan)
    factor_proof = _prove_factors(run, model, work) if is_proved else None
    _let_go(opened)
    refit = _repaired(run, work.model, is_kept)
    both = Repaired(tuple(dict.fromkeys((*repair.tensors, *refit.tensors))), refit.layers, (*repair.notes, *refit.notes))
    return Built(work.model, proof, both, work, factor_proof)


def _repaired(run: Run, model: ir.Model, is_kept: BoolArray) -> Repaired:
    return repaired(run.opened, run.recipe, model, is_kept, run.samples.calibration, run.runtime, run.progress)


def _let_go(opened: Opened) -> None:
    """Free the copies of a large model that a proof made."""
    if opened.size_bytes > LARGE_MODEL_BYTES:
        gc.collect()


def _recovered(run: Run, model: ir.Model, plan: Plan) -> Recovered:
    is_kept, samples = run.opened.analysis.keep_mask(plan.keep()), run.samples.training
    return recovering.recovered(
        run.opened, run.recipe, model, is_kept, samples, run.runtime, run.progress, run.artifacts.checkpoint
    )


def _carry_out(run: Run, chosen: Planned, measure_latency: bool) -> Report:
    opened, artifacts = run.opened, run.artifacts
    built = _built(run, chosen.plan, is_proved=run.recipe.verify)
    recovered = _recovered(run, built.model, chosen.plan)
    if artifacts.plan is not None:
        changed = tuple(dict.fromkeys((*built.repair.tensors, *recovered.tensors)))
        write_text(artifacts.plan, plans.dumps(replace(chosen.plan, compensated=changed)))
    with run.progress.stage("writing the model"):
        # Weights that came in a file of their own leave in one.
        limit = shrinkc_ir.INLINE_LIMIT_BYTES if opened.has_data_file else shrinkc_ir.PROTOBUF_LIMIT_BYTES
        written = shrinkc_ir.save(built.model, artifacts.output, single_file_bytes=limit)
    if recovered.error is not None:
        recovered.error.hint = f"{recovered.error.hint}; the best model so far is at {artifacts.output}"
        raise recovered.error
    report = _predicted(run, chosen)
    counted = report.after if built.factorised is None else counted_cost(built.model, opened.shapes)
    report = replace(
        report,
        is_written=True,
        output_sha256=sha256(artifacts.output),
        after=replace(counted, size_bytes=written),
        proof=built.proof,
        proof_note="not run: --no-verify" if not run.recipe.verify else "",
        calibration=_calibration(run, built.repair),
        factors=run.factorising.rows(chosen.plan.ranks, built.factorised) if run.recipe.method != CHANNELS else (),
        factor_proof=built.factor_proof,
        recovery=recovered.recovery,
        notes=(*_notes(run), *chosen.notes, *built.repair.notes),
    )
    judged = run.samples.evaluation
    report = measured(report, opened, artifacts.output, run.runtime, judged, run.threads, measure_latency, run.progress)
    return _judged(run, _emitted(run, report))


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
    budget = run.recipe.latency_budget()
    if report.latency is None:
        return _written(report, run.artifacts)
    is_measured = run.timed is not None and run.timed.basis == timing.MEASURED
    failure = missed(budget, report.latency) if budget is not None and is_measured else ""
    if report.latency.fair_speedup < 1:
        report = replace(report, notes=(SLOWER_NOTE, *report.notes))
    if not failure:
        return _written(report, run.artifacts)
    rejected = run.artifacts.beside(".rejected.onnx")
    os.replace(run.artifacts.output, rejected)
    _written(replace(report, output=str(rejected), notes=(f"REJECTED: {failure}.", *report.notes)), run.artifacts)
    raise GateError(failure, where=str(run.artifacts.output), hint=f"the model is kept at {rejected}; ask for less")


def _calibration(run: Run, repair: Repaired) -> Calibration | None:
    used = run.samples.calibration
    if used is None:
        return None
    return Calibration(used.source, used.n_samples, used.is_synthetic, run.recipe.compensation, repair.layers)


def _prove(run: Run, pruned: ir.Model, is_kept: BoolArray) -> Proof:
    """Proof of the surgery itself, before anything is compensated."""
    opened, head = run.opened, _head(run)
    with run.progress.stage("proving the surgery"), _keeping_rejected(run, pruned):
        return verify.prove(opened.analysis, is_kept, pruned, opened.shapes, run.runtime, seed=run.recipe.seed, samples=head)


def _prove_factors(run: Run, before: ir.Model, work: Factorised) -> FactorProof:
    """Proof of the factorisation itself, before anything is refitted."""
    names, shapes = list(work.weights), run.opened.shapes
    with run.progress.stage("proving the factors"), _keeping_rejected(run, work.model):
        return prove_factors(before, work.model, names, shapes, run.runtime, seed=run.recipe.seed, samples=_head(run))


def _head(run: Run) -> dict[str, np.ndarray] | None:
    """A few real samples for a proof."""
    real = run.samples.evaluation or run.samples.calibration
    return None if real is None else real.head(evidence_data.fixed_batch(run.opened.model) or 2)


@contextmanager
def _keeping_rejected(run: Run, model: ir.Model) -> Iterator[None]:
    """Write down a model that fails its proof, and say where."""
    try:
        yield
    except VerificationError as error:
        rejected = run.artifacts.beside(".rejected.onnx")
        shrinkc_ir.save(model, rejected)
        error.hint = f"{error.hint + '; ' if error.hint else ''}the rejected model is kept at {rejected}"
        raise


def _predicted(run: Run, chosen: Planned) -> Report:
    """Report of what a plan will do; nothing is measured yet."""
    opened, recipe, artifacts = run.opened, run.recipe, run.artifacts
    cost = chosen.cost or opened.cost.of(opened.analysis.keep_mask(chosen.plan.keep()))
    write_recipe(recipe, artifacts)
    before = opened.cost.dense()
    return Report(
        model=opened.path.name,
        model_sha256=opened.sha256,
        output=str(artifacts.output),
        output_sha256=None,
        recipe=recipe.to_json(),
        recipe_sha256=recipe.sha256(),
        input_shapes=opened.shapes,
        before=replace(before, size_bytes=opened.size_bytes),
        after=cost,
        is_written=False,
        groups=group_rows(opened.analysis, chosen.plan, chosen.forecast),
        refusals=tuple(opened.analysis.refusals),
        quality=Quality(),
        latency=None,
        latency_note="not run: dry run",
        proof=None,
        proof_note="not run: dry run",
        runtimes=(),
        versions=facts.versions(),
        machine=facts.machine(),
        latency_basis="" if run.timed is None else f"{run.timed.basis}: {run.timed.detail}",
        notes=(*_notes(run), *chosen.notes),
    )


def _notes(run: Run) -> tuple[str, ...]:
    """What was done to the model, or taken for granted about it, without being asked for."""
    about_samples = (run.samples.note,) if run.samples.note else ()
    merged = (merging.note_of(run.opened.merged),) if run.opened.merged else ()
    return (*_inlined(run.opened), *merged, *_assumptions(run.opened), *about_samples)


def _inlined(opened: Opened) -> tuple[str, ...]:
    if not opened.inlined:
        return ()
    return (f"Local functions were put in the place of their calls: {', '.join(opened.inlined)}.",)


def _assumptions(opened: Opened) -> tuple[str, ...]:
    """What was taken for granted about sizes nobody gave."""
    if not opened.assumed:
        return ()
    sizes = ", ".join(f"{name} {'x'.join(map(str, opened.shapes[name]))}" for name in opened.assumed)
    return (
        f"Free sizes were assumed for the analysis and for counting MACs: {sizes} (--input-shapes or --data say otherwise).",
    )


def write_recipe(recipe: Recipe, artifacts: Artifacts) -> None:
    """Write the resolved recipe beside the output."""
    write_text(artifacts.beside(".recipe.json"), json.dumps(recipe.to_json(), indent=1) + "\n")


def _written(report: Report, artifacts: Artifacts) -> Report:
    files = {
        "model": report.output or str(artifacts.output),
        "report": str(artifacts.beside(".report.json")),
        "summary": str(artifacts.beside(".report.md")),
        "recipe": str(artifacts.beside(".recipe.json")),
    }
    if artifacts.plan is not None:
        files["plan"] = str(artifacts.plan)
    report = replace(report, files={**files, **report.files})
    write_text(artifacts.beside(".report.json"), report_json.dumps(report))
    write_text(artifacts.beside(".report.md"), report_markdown.render(report))
    return report
