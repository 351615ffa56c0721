"""Measuring a compressed model beside its original: quality on data, latency on the runtime at hand."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shrinkc import shapes, target
from shrinkc.api import Engine, RunConfig, RuntimeAdapter, Session
from shrinkc.errors import BuildError
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence import quality as evidence_quality
from shrinkc.evidence.batching import batch_size
from shrinkc.evidence.data import Data
from shrinkc.evidence.quality import Quality
from shrinkc.feeding import random_input
from shrinkc.latency import probe
from shrinkc.log import Progress
from shrinkc.opening import Opened
from shrinkc.report.model import Report, RuntimeLevel
from shrinkc.report.validation import EngineResult
from shrinkc.timing import engine_here
from shrinkc.validating import validated_on

QUALITY_BATCH = 64

ENGINE_RUNS = 4
"""Runs compared on the target's engine."""


@dataclass(frozen=True)
class _Asked:
    """What is to be measured, and how."""

    opened: Opened
    output: Path
    samples: Data | None
    config: RunConfig
    progress: Progress
    is_timed: bool


def measured(
    report: Report,
    opened: Opened,
    output: Path,
    runtime: RuntimeAdapter,
    samples: Data | None,
    threads: int,
    measure_latency: bool,
    progress: Progress,
) -> Report:
    """Report with everything that could be measured on the two files, and why the rest could not.

    Where the target's engine is here, in a process of its own, it has to compute the same and it is what is timed.
    """
    asked = _Asked(opened, output, samples, RunConfig(threads=threads), progress, measure_latency)
    engine = engine_here(target.load(str(report.recipe["target"])), runtime)
    there = report if engine is None else _on_engine(engine, report, asked)
    return _in_process(runtime, there, asked)


NOT_ASKED = "not run: --no-latency"


def _in_process(runtime: RuntimeAdapter, report: Report, asked: _Asked) -> Report:
    """With what the runtime of this process made of both files: quality, and times if the engine took none."""
    is_timed = asked.is_timed and report.latency is None
    if not asked.is_timed:
        report = replace(report, latency_note=NOT_ASKED)
    try:
        after = runtime.load(asked.output, asked.config)
        before = runtime.load(asked.opened.path, asked.config) if is_timed or asked.samples is not None else None
    except BuildError as error:
        reason = f"not run: {error.message} ({error.because})"
        return replace(report, latency_note=reason, runtimes=(RuntimeLevel(runtime.name, "not run", reason), *report.runtimes))
    if before is not None:
        report = replace(report, quality=_quality(before, after, asked))
    if before is not None and is_timed:
        with asked.progress.stage("measuring latency"):
            report = _timed(report, before, after, _feeds(asked)[0], asked.config.threads)
    return replace(report, runtimes=(*_levels(report, runtime, after), *report.runtimes))


def _quality(before: Session, after: Session, asked: _Asked) -> Quality:
    if asked.samples is None:
        return Quality()
    with asked.progress.stage(f"measuring quality on {asked.samples.n_samples} samples"):
        return evidence_quality.measure(before, after, asked.samples, batch_size(asked.opened.analysis, QUALITY_BATCH))


def _on_engine(engine: Engine, report: Report, asked: _Asked) -> Report:
    """With what the target's engine made of both files: its level, and times if it got so far."""
    is_real, feeds = asked.samples is not None, _feeds(asked)
    files = asked.opened.path, asked.output
    try:
        found = validated_on(engine, *files, feeds, asked.config, asked.progress, is_real=is_real, is_timed=asked.is_timed)
    except Exception as error:  # onnxruntime, which it is held against, may not run it; no reason to lose the result
        reason = f"nothing to hold it against: {str(error)[:200]}"
        return replace(report, runtimes=(RuntimeLevel(engine.name, "not run", reason),))
    level = RuntimeLevel(engine.name, found.level, _told(found))
    if found.latency is None:
        return replace(report, runtimes=(level,))
    return replace(report, runtimes=(level,), latency=found.latency, latency_runtime=engine.name, latency_note="")


def _told(found: EngineResult) -> str:
    where = f"{found.version}, {found.provider}, {found.place}" if found.provider else found.version
    return "; ".join(filter(None, [where, found.reason, found.original, found.latency_note]))


def _feeds(asked: _Asked) -> list[dict[str, np.ndarray]]:
    opened = asked.opened
    if asked.samples is not None:
        return list(itertools.islice(asked.samples.batches(evidence_data.fixed_batch(opened.model) or 1), ENGINE_RUNS))
    generator = np.random.default_rng(0)
    inputs = shapes.real_inputs(opened.model)
    return [
        {value.name or "": random_input(value, opened.shapes[value.name or ""], generator) for value in inputs}
        for _ in range(ENGINE_RUNS)
    ]


def _timed(report: Report, before: Session, after: Session, feed: dict[str, np.ndarray], threads: int) -> Report:
    try:
        return replace(report, latency=probe.compare(before, after, feed, threads), latency_note="")
    except Exception as error:  # a model that cannot run on made-up inputs is no reason to lose the result
        return replace(report, latency_note=f"not run: {str(error)[:200]}")


def _levels(report: Report, runtime: RuntimeAdapter, after: Session) -> tuple[RuntimeLevel, ...]:
    wanted = target.load(str(report.recipe["target"]))
    is_timed = report.latency is not None and report.latency_runtime == runtime.name
    level = "timed" if is_timed else "validated" if report.proof is not None else "loaded"
    effective = after.effective()
    here = RuntimeLevel(runtime.name, level, f"onnxruntime {effective.version}, {effective.provider}, this machine")
    is_told = any(known.runtime == wanted.runtime for known in report.runtimes)
    if is_told or (wanted.runtime == runtime.name and wanted.is_here):
        return (here,)
    missing = f"no {wanted.runtime} engine was built or timed; build it on the device in {wanted.precision}"
    if wanted.is_here:
        missing = f"{wanted.runtime} is not installed here; `shrinkc doctor` tells how to get it"
    return here, RuntimeLevel(wanted.runtime, "not run", missing)
