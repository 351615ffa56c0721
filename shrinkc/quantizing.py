"""A model in the precision its target wants, with what that costs and gains, measured like everything else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shrinkc import bfloat16, precision, registry, target, trials
from shrinkc import ir as shrinkc_ir
from shrinkc.api import RunConfig, RuntimeAdapter, Session
from shrinkc.errors import BuildError, CalibrationError, GateError, RecipeError, VerificationError
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence import quality as evidence_quality
from shrinkc.evidence import sources
from shrinkc.evidence.data import Data
from shrinkc.evidence.quality import Quality
from shrinkc.files import sha256
from shrinkc.latency import probe
from shrinkc.latency.probe import Comparison
from shrinkc.log import Progress, Silent
from shrinkc.precision import Style
from shrinkc.report import facts
from shrinkc.report.validation import OK, EngineResult
from shrinkc.searching import drop_of
from shrinkc.timing import engine_here
from shrinkc.tolerances import INT8, TOLERANCES
from shrinkc.trials import Trial
from shrinkc.validating import validated_on

SCHEMA = "shrinkc.quantization/1"

PRECISIONS = ("float16", "bfloat16", "int8")

CHECK_RUNTIME, QUALITY_BATCH, HELD_OUT_EVERY = "onnxruntime-cpu", 64, 4

CALIBRATION_BATCHES = 64

ENGINE_RUNS = 16
"""Runs compared on the target's engine."""

MOST_LOST = 1.0
"""Points that int8 may lose and still count as within tolerance, where ``max_drop`` says nothing else; see :func:`drop_of`."""

NOT_TIMED = "Not timed: onnxruntime's CPU provider has no kernels for this file."

ELSEWHERE = (
    "Quality was measured in float32 with every value rounded as bfloat16 is, on onnxruntime; the file itself was run by the "
    "engines above.  It is meant for accelerators that have bfloat16; none was tried but those named."
)

NOT_THERE = "Times are of onnxruntime's CPU provider here; nothing was run on the target."


@dataclass(frozen=True)
class Verdict:
    """Whether what was lost is within the tolerance of a precision.

    Attributes
    ----------
    is_within : bool
    sentence : str
    """

    is_within: bool
    sentence: str


@dataclass(frozen=True)
class Quantized:
    """What became of a model.

    Attributes
    ----------
    style : Style or None
        Of the Q/DQ nodes; None where there are none.
    zero_points : tuple of int
        Distinct ones of the Q/DQ nodes.
    latency : Comparison or None
        Against the original, on ``latency_runtime``; None where that does not run the file.
    islands : tuple of str
        Operators that stay in float32 as ONNX defines them for no bfloat16.
    trials : tuple of Trial
        Engines that were tried on a file in bfloat16.
    verdict : Verdict
        What the quality comes to.
    latency_runtime : str
        The target's engine if it is here and computes the file right, else onnxruntime's CPU provider.
    engine : EngineResult or None
        What the target's engine made of the file, where that is another one, and here.
    """

    model: str
    model_sha256: str
    output: str
    output_sha256: str
    target: str
    precision: str
    style: Style | None
    zero_points: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    quality: Quality
    latency: Comparison | None
    notes: tuple[str, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    islands: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    verdict: Verdict | None = None
    latency_runtime: str = CHECK_RUNTIME
    engine: EngineResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        return {"schema": SCHEMA, **asdict(self)}


def quantize(
    model: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    data: sources.Source,
    eval_data: sources.Source | None = None,
    preprocess: str | None = None,
    to: str = "int8",
    target_name: str = "cpu",
    max_drop: float | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Convert a model to another precision, and measure it beside the original.

    Parameters
    ----------
    model, output : path
    data : source
        Samples to calibrate on; every fourth is held out to judge on, unless ``eval_data`` is given.
    eval_data : source, optional
    preprocess : str, optional
    to : str
        ``float16``, ``bfloat16`` or ``int8``.
    target_name : str
        Whose runtime decides the style of Q/DQ nodes.
    max_drop : float, optional
        Points that may be lost; a model that loses more is set aside as ``.rejected.onnx``.
    progress : Progress, optional

    Raises
    ------
    RecipeError
        No style is known for the target's runtime.
    GateError
        More was lost than was allowed.
    VerificationError
        Nothing here runs a file in bfloat16, or what runs it computes something else.
    BuildError, CalibrationError, ModelLoadError
    """
    reporter, source, written = progress or Silent(), Path(model), Path(output)
    if written.resolve() == source.resolve() or written.suffix != ".onnx":
        raise RecipeError("the output must be another .onnx file", where=str(written))
    chosen, loaded = target.load(target_name), shrinkc_ir.load(source)
    style = _style(chosen) if to == INT8 else None
    given, judged = sources.load_given(data, eval_data, loaded, preprocess, None)
    batch = evidence_data.fixed_batch(loaded) or 1
    calibration, evaluation = _shared(given, judged if eval_data is not None else None, batch)
    made = _written(source, written, to, style, _batches(calibration, batch), reporter)
    runtime: RuntimeAdapter = registry.load("runtimes", CHECK_RUNTIME)()
    before, after = (runtime.load(file, RunConfig()) for file in (source, made.judged))
    with reporter.stage(f"measuring quality on {evaluation.n_samples} samples"):
        quality = evidence_quality.measure(before, after, evaluation, evidence_data.fixed_batch(loaded) or QUALITY_BATCH)
    feed = evaluation.head(batch)
    proved = () if made.judged is written else _proved(written, feed, after.run(feed), reporter)
    there = _there(chosen, runtime, (source, written), _batches(evaluation, batch)[:ENGINE_RUNS], reporter)
    is_there = there is not None and there.latency is not None
    latency = there.latency if there is not None and is_there else _latency(runtime, before, written, feed, reporter)
    result = Quantized(
        source.name,
        sha256(source),
        str(written),
        sha256(written),
        chosen.name,
        to,
        style,
        () if style is None else tuple(precision.zero_points(written)),
        source.stat().st_size,
        written.stat().st_size,
        quality,
        latency,
        _notes(chosen, latency, there, proved),
        facts.machine(),
        facts.versions(),
        made.islands,
        proved,
        verdict(to, quality, max_drop),
        chosen.runtime if is_there else CHECK_RUNTIME,
        there,
    )
    return _judged(result, max_drop)


@dataclass(frozen=True)
class _Written:
    """A file that was written, and the one quality is measured on: another one where kernels are rare."""

    judged: Path | bytes
    islands: tuple[str, ...] = ()


def _written(
    source: Path, written: Path, to: str, style: Style | None, batches: list[dict[str, Any]], progress: Progress
) -> _Written:
    with progress.stage(f"converting to {to}"):
        written.parent.mkdir(parents=True, exist_ok=True)
        if style is not None:
            precision.to_int8(source, written, batches, style)
        elif to == "float16":
            precision.to_float16(source, written)
        else:
            made = bfloat16.converted(source)
            shrinkc_ir.save(made.model, written)
            return _Written(shrinkc_ir.loadable(bfloat16.emulated(made)), made.islands)
    return _Written(written)


def _proved(written: Path, feed: Mapping[str, Any], expected: Mapping[str, Any], progress: Progress) -> tuple[Trial, ...]:
    """Trials of the file itself against what it was said to compute.

    Raises
    ------
    VerificationError
        No engine runs it, or one that does computes something else.
    """
    found = trials.tried(written, feed, expected, progress)
    if all(trial.relative_error is None for trial in found):
        with progress.stage("evaluating by onnx's reference"):
            found = (*found, trials.evaluated(written, feed, expected))
    errors = {trial.runtime: trial.relative_error for trial in found if trial.relative_error is not None}
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCES["bfloat16"]}
    if wrong or not errors:
        because = "; ".join(f"{name} is off by {error:.1e}" for name, error in wrong.items()) or "nothing here runs it"
        raise VerificationError("the file in bfloat16 is not proved", where=str(written), because=because)
    return found


def _there(
    chosen: target.Target,
    runtime: RuntimeAdapter,
    files: tuple[Path, Path],
    feeds: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> EngineResult | None:
    """What the target's engine makes of the file, with times if it is right; None where the target is another machine."""
    engine = engine_here(chosen, runtime)
    if engine is None:
        return None
    return validated_on(engine, *files, feeds, RunConfig(), progress, is_real=True, is_timed=True)


def _latency(
    runtime: RuntimeAdapter, before: Session, written: Path, feed: Mapping[str, Any], progress: Progress
) -> Comparison | None:
    """Times beside the original; None where the runtime has no kernels for the file."""
    try:
        after = runtime.load(written, RunConfig())
    except BuildError:
        return None
    with progress.stage("measuring latency"):
        return probe.compare(before, after, feed, 1)


def _notes(
    chosen: target.Target, latency: Comparison | None, there: EngineResult | None, found: tuple[Trial, ...]
) -> tuple[str, ...]:
    notes = [] if latency is not None else [NOT_TIMED]
    notes += [_sentence(trial) for trial in found]
    if there is not None:
        notes.append(_told(there))
    elif latency is not None and not (chosen.is_here and chosen.runtime == CHECK_RUNTIME):
        notes.append(NOT_THERE)
    return (*notes, *([ELSEWHERE] if found else []))


def _told(there: EngineResult) -> str:
    who = f"{there.runtime} {there.version}"
    if there.status != OK:
        return f"{who}: {there.reason}; times are of onnxruntime's CPU provider"
    off = max(one.relative for one in there.own)
    said = f"{who}: runs it, off by {off:.1e} of the largest value"
    return f"{said}; it is what was timed" if there.latency is not None else f"{said}; {there.latency_note}"


def _sentence(trial: Trial) -> str:
    who = f"{trial.runtime} {trial.version}"
    if trial.relative_error is None:
        return f"{who}: does not run it: {trial.reason}"
    return f"{who}: runs it, off by {trial.relative_error:.1e} of the largest value"


def verdict(precision: str, quality: Quality, max_drop: float | None = None) -> Verdict:
    """Hold quality against what a precision may lose: int8 points of the task's metric, halves of a float relative error.

    Parameters
    ----------
    precision : str
    quality : Quality
        Of samples that were not calibrated on.
    max_drop : float, optional
        Points, in the place of int8's usual ones; then they count for any precision.
    """
    if precision == INT8 or max_drop is not None:
        allowed, lost = MOST_LOST if max_drop is None else max_drop, drop_of(quality)
        return Verdict(lost <= allowed, f"{lost:.2f} points lost, {allowed:g} allowed")
    error = max(one.relative_error for one in quality.agreement)
    allowed = TOLERANCES[precision]
    return Verdict(error <= allowed, f"relative error {error:.2%}, {allowed:.0%} allowed")


def _style(chosen: target.Target) -> Style:
    family = "tensorrt" if "tensorrt" in chosen.runtime else chosen.runtime
    if family not in precision.STYLES:
        raise RecipeError(
            "no style of Q/DQ nodes is known for the target's runtime",
            where=f"--target {chosen.name}",
            because=chosen.runtime,
            hint=f"runtimes with one: {', '.join(precision.STYLES)}",
        )
    return precision.STYLES[family]


def _shared(given: Data | None, judged: Data | None, batch: int) -> tuple[Data, Data]:
    if given is None:
        raise CalibrationError("there is nothing to calibrate on", hint="give --data")
    if judged is not None:
        return given, judged
    if given.n_samples < HELD_OUT_EVERY * batch:
        raise CalibrationError(
            "too few samples to hold any out",
            because=f"{given.n_samples} for batches of {batch}",
            hint="give more, or --eval-data",
        )
    return given.split(HELD_OUT_EVERY, batch)


def _batches(samples: Data, batch: int) -> list[dict[str, Any]]:
    return [found for found in list(samples.batches(batch))[:CALIBRATION_BATCHES] if len(next(iter(found.values()))) == batch]


def _judged(made: Quantized, max_drop: float | None) -> Quantized:
    drop = drop_of(made.quality)
    if max_drop is None or drop <= max_drop:
        return made
    output = Path(made.output)
    rejected = output.with_name(f"{output.name.removesuffix('.onnx')}.rejected.onnx")
    os.replace(output, rejected)
    raise GateError(
        f"{made.precision} loses {drop:.2f} points, {max_drop:g} are allowed",
        where=str(output),
        hint=f"the model is kept at {rejected}; leave layers out, or calibrate on more samples",
    )
