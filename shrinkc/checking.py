"""A gate: a compressed model held against limits, each with the figure that decided."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shrinkc import gates, recipe_files, registry
from shrinkc import limits as limiting
from shrinkc.api import RunConfig, RuntimeAdapter, Session
from shrinkc.errors import RecipeError
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence import quality as evidence_quality
from shrinkc.evidence import sources
from shrinkc.evidence.batching import batch_size
from shrinkc.evidence.data import Data
from shrinkc.evidence.quality import Quality
from shrinkc.files import sha256
from shrinkc.latency import probe
from shrinkc.latency.probe import Comparison
from shrinkc.limits import Limits
from shrinkc.log import Progress, Silent
from shrinkc.measuring import QUALITY_BATCH
from shrinkc.opening import Opened, loaded, open_model
from shrinkc.replaying import Replay, replayed
from shrinkc.report import facts
from shrinkc.report.check import INCONCLUSIVE, Check, Verdict
from shrinkc.report.validation import Validation
from shrinkc.timing import made_up_feed
from shrinkc.validating import refuse_other_inputs, validate

RUNTIME = "onnxruntime-cpu"

TRIES = 3
"""How often a speed-up is measured before it is called inconclusive."""


@dataclass(frozen=True)
class _Pair:
    """Both models, opened at the same sizes, and the samples to judge by."""

    limits: Limits
    before: Opened
    after: Opened
    judged: Data | None
    threads: int
    progress: Progress


@dataclass(frozen=True)
class _Measured:
    """What the limits asked for."""

    verdicts: tuple[Verdict, ...] = ()
    quality: Quality | None = None
    latency: Comparison | None = None
    validation: Validation | None = None


def check(
    original: str | os.PathLike[str],
    compressed: str | os.PathLike[str],
    *,
    limits: str | os.PathLike[str] | None = None,
    data: sources.Source | None = None,
    preprocess: str | None = None,
    samples: int | None = None,
    plan: str | os.PathLike[str] | None = None,
    calibration: sources.Source | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    **flags: Any,
) -> Check:
    """Hold a compressed model against limits.

    Parameters
    ----------
    original, compressed : path
    limits : path, optional
        TOML file of limits; those given by name take precedence.
    data : source, optional
        Samples to judge on, see :func:`shrinkc.evidence.sources.load`.
    preprocess : str, optional
    samples : int, optional
        Most samples to read of each source.
    plan : path, optional
        Plan the compressed model is said to come from; it is replayed, and has to give the same bytes.
    calibration : source, optional
        ``data`` of the run that made the plan; ``data`` here is then that run's ``eval_data``.
    input_shapes : mapping, optional
        Sizes of free dimensions, without data.
    threads : int, optional
        Of the measurement of speed; 1 by default.
    progress : Progress, optional
    **flags
        Fields of :class:`shrinkc.limits.Limits`.

    Raises
    ------
    ShrinkcError
        A model, the data or a limit cannot be read, a setting would have no effect, or the models do not take the same inputs.
        A limit that is not met is a verdict, not an error.
    """
    wanted = limiting.resolve(limits, **flags)
    replay = None if plan is None else Replay(Path(plan), calibration, data, preprocess, samples)
    _refuse_idle(wanted, replay, data, calibration, input_shapes, threads)
    sources.refuse_idle(calibration, data, preprocess, samples)
    paths, reporter = (Path(original), Path(compressed)), progress or Silent()
    with ExitStack() as stack:
        models = [stack.enter_context(loaded(path, reporter)) for path in paths]
        judged = None if data is None else sources.load(data, models[0], preprocess=preprocess, most=samples)
        recipe = replace(recipe_files.resolve(input_shapes=dict(input_shapes or {}) or None), optimize=False)
        before = open_model(paths[0], recipe, judged, models[0], reporter)
        refuse_other_inputs(*paths, before.shapes)
        after = open_model(paths[1], replace(recipe, input_shapes=before.shapes), None, models[1], reporter)
        pair = _Pair(wanted, before, after, judged, threads or 1, reporter)
        found = _of_engines(pair, data, preprocess, _of_sessions(pair, _of_files(pair)))
    proved = () if replay is None else (replayed(replay, *paths, reporter),)
    return Check(
        paths[0].name,
        paths[1].name,
        sha256(paths[0]),
        sha256(paths[1]),
        (*found.verdicts, *proved),
        found.quality,
        found.latency,
        found.validation,
        facts.machine(),
        facts.versions(),
    )


def _refuse_idle(
    wanted: Limits,
    replay: Replay | None,
    data: sources.Source | None,
    calibration: sources.Source | None,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    threads: int | None,
) -> None:
    """Settings that nothing would look at, and limits that lack what they look at."""
    if not wanted.count() and replay is None:
        raise RecipeError("there is nothing to check", hint="give a limit, such as --max-size 60%, or --limits FILE.toml")
    if wanted.are_of_quality and data is None:
        raise RecipeError("quality can only be judged on samples", where=", ".join(_of_quality(wanted)), hint="give --data")
    is_used = wanted.are_of_quality or wanted.runtimes or wanted.min_speedup is not None or calibration is not None
    idle = {
        "--data": data is not None and not is_used,
        "--calibration": calibration is not None and replay is None,
        "--threads": threads is not None and wanted.min_speedup is None,
        "--input-shapes": input_shapes is not None and data is not None,
    }
    for flag, is_idle in idle.items():
        if is_idle:
            raise RecipeError("would have no effect", where=flag, because="no limit looks at it")


def _of_quality(wanted: Limits) -> Iterator[str]:
    for name in ("max_drop", "min_accuracy", "min_agreement"):
        if getattr(wanted, name) is not None:
            yield f"--{name.replace('_', '-')}"


def _of_files(pair: _Pair) -> _Measured:
    before, after = (replace(opened.cost.dense(), size_bytes=opened.size_bytes) for opened in (pair.before, pair.after))
    return _Measured(tuple(gates.of_cost(pair.limits, before, after)))


def _of_sessions(pair: _Pair, found: _Measured) -> _Measured:
    """With what both models give and take on onnxruntime."""
    least = pair.limits.min_speedup
    if not pair.limits.are_of_quality and least is None:
        return found
    runtime: RuntimeAdapter = registry.load("runtimes", RUNTIME)()
    sessions = [runtime.load(opened.path, RunConfig(threads=pair.threads)) for opened in (pair.before, pair.after)]
    if pair.limits.are_of_quality and pair.judged is not None:
        with pair.progress.stage(f"measuring quality on {pair.judged.n_samples} samples"):
            batch = batch_size(pair.before.analysis, QUALITY_BATCH)
            quality = evidence_quality.measure(sessions[0], sessions[1], pair.judged, batch)
        found = replace(found, quality=quality, verdicts=(*found.verdicts, *gates.of_quality(pair.limits, quality)))
    if least is None:
        return found
    latency, verdict = _timed(pair, sessions, least)
    return replace(found, latency=latency, verdicts=(*found.verdicts, verdict))


def _timed(pair: _Pair, sessions: list[Session], least: float) -> tuple[Comparison, Verdict]:
    """The first measurement that decides, else the last one."""
    fixed = evidence_data.fixed_batch(pair.before.model) or 1
    feed = made_up_feed(pair.before) if pair.judged is None else pair.judged.head(fixed)
    for _ in range(TRIES):
        with pair.progress.stage("measuring latency"):
            latency = probe.compare(sessions[0], sessions[1], feed, pair.threads)
        verdict = gates.of_speed(least, latency)
        if verdict.status != INCONCLUSIVE:
            break
    return latency, verdict


def _of_engines(pair: _Pair, data: sources.Source | None, preprocess: str | None, found: _Measured) -> _Measured:
    if not pair.limits.runtimes:
        return found
    validation = validate(
        pair.before.path,
        pair.after.path,
        runtimes=pair.limits.runtimes,
        data=data,
        preprocess=preprocess,
        input_shapes=None if data is not None else pair.before.shapes,
        progress=pair.progress,
    )
    verdicts = (*found.verdicts, *gates.of_engines(pair.limits, validation))
    return replace(found, validation=validation, verdicts=verdicts)
