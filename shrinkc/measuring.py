"""Measuring a compressed model beside its original: quality on data, latency on the runtime at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from shrinkc import shapes, target
from shrinkc.api import RunConfig, RuntimeAdapter, Session
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

QUALITY_BATCH = 64


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
    """Report with everything that could be measured on the two files, and why the rest could not."""
    config = RunConfig(threads=threads)
    try:
        after = runtime.load(output, config)
        if samples is None and not measure_latency:
            return replace(report, latency_note="not run: --no-latency", runtimes=_levels(report, runtime, after))
        before = runtime.load(opened.path, config)
    except BuildError as error:
        reason = f"not run: {error.message} ({error.because})"
        return replace(report, latency_note=reason, runtimes=(RuntimeLevel(runtime.name, "not run", reason),))
    quality = Quality()
    if samples is not None:
        with progress.stage(f"measuring quality on {samples.n_samples} samples"):
            batch = batch_size(opened.analysis, QUALITY_BATCH)
            quality = evidence_quality.measure(before, after, samples, batch)
    report = replace(report, quality=quality)
    if measure_latency:
        with progress.stage("measuring latency"):
            report = _timed(report, before, after, _feed(opened, samples), threads)
    else:
        report = replace(report, latency_note="not run: --no-latency")
    return replace(report, runtimes=_levels(report, runtime, after))


def _feed(opened: Opened, samples: Data | None) -> dict[str, np.ndarray]:
    if samples is not None:
        return samples.head(evidence_data.fixed_batch(opened.model) or 1)
    generator = np.random.default_rng(0)
    return {
        value.name or "": random_input(value, opened.shapes[value.name or ""], generator)
        for value in shapes.real_inputs(opened.model)
    }


def _timed(report: Report, before: Session, after: Session, feed: dict[str, np.ndarray], threads: int) -> Report:
    try:
        return replace(report, latency=probe.compare(before, after, feed, threads), latency_note="")
    except Exception as error:  # a model that cannot run on made-up inputs is no reason to lose the result
        return replace(report, latency_note=f"not run: {str(error)[:200]}")


def _levels(report: Report, runtime: RuntimeAdapter, after: Session) -> tuple[RuntimeLevel, ...]:
    wanted = target.load(str(report.recipe["target"]))
    level = "timed" if report.latency is not None else "validated" if report.proof is not None else "loaded"
    effective = after.effective()
    here = RuntimeLevel(runtime.name, level, f"onnxruntime {effective.version}, {effective.provider}, this machine")
    if wanted.runtime == runtime.name and wanted.is_here:
        return (here,)
    missing = f"no {wanted.runtime} engine was built or timed; build it on the device in {wanted.precision}"
    if wanted.is_here:
        missing = f"whole models are timed there by `shrinkc validate --runtimes {wanted.runtime} --time`"
    return here, RuntimeLevel(wanted.runtime, "not run", missing)
