"""A model in the precision its target wants, with what that costs and gains, measured like everything else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shrinkc import ir as shrinkc_ir
from shrinkc import precision, registry, target
from shrinkc.api import RunConfig, RuntimeAdapter
from shrinkc.errors import CalibrationError, GateError, RecipeError
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
from shrinkc.searching import drop_of

SCHEMA = "shrinkc.quantization/1"

PRECISIONS = ("float16", "int8")

CHECK_RUNTIME, QUALITY_BATCH, HELD_OUT_EVERY = "onnxruntime-cpu", 64, 4

CALIBRATION_BATCHES = 64

NOT_THERE = "Times are of onnxruntime's CPU provider here; nothing was run on the target."


@dataclass(frozen=True)
class Quantized:
    """What became of a model.

    Attributes
    ----------
    style : Style or None
        Of the Q/DQ nodes; None for float16.
    zero_points : tuple of int
        Distinct ones of the Q/DQ nodes.
    latency : Comparison
        Against the original, on onnxruntime's CPU provider.
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
    latency: Comparison
    notes: tuple[str, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

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
    """Convert a model to another precision by onnxruntime's tools, and measure it beside the original.

    Parameters
    ----------
    model, output : path
    data : source
        Samples to calibrate on; every fourth is held out to judge on, unless ``eval_data`` is given.
    eval_data : source, optional
    preprocess : str, optional
    to : str
        ``float16`` or ``int8``.
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
    BuildError, CalibrationError, ModelLoadError
    """
    reporter, source, written = progress or Silent(), Path(model), Path(output)
    if written.resolve() == source.resolve() or written.suffix != ".onnx":
        raise RecipeError("the output must be another .onnx file", where=str(written))
    chosen, loaded = target.load(target_name), shrinkc_ir.load(source)
    style = None if to == "float16" else _style(chosen)
    given, judged = sources.load_given(data, eval_data, loaded, preprocess, None)
    batch = evidence_data.fixed_batch(loaded) or 1
    calibration, evaluation = _shared(given, judged if eval_data is not None else None, batch)
    with reporter.stage(f"converting to {to}"):
        written.parent.mkdir(parents=True, exist_ok=True)
        if style is None:
            precision.to_float16(source, written)
        else:
            precision.to_int8(source, written, _batches(calibration, batch), style)
    runtime: RuntimeAdapter = registry.load("runtimes", CHECK_RUNTIME)()
    before, after = (runtime.load(path, RunConfig()) for path in (source, written))
    with reporter.stage(f"measuring quality on {evaluation.n_samples} samples"):
        quality = evidence_quality.measure(before, after, evaluation, evidence_data.fixed_batch(loaded) or QUALITY_BATCH)
    with reporter.stage("measuring latency"):
        latency = probe.compare(before, after, evaluation.head(batch), 1)
    made = Quantized(
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
        () if chosen.is_here and chosen.runtime == CHECK_RUNTIME else (NOT_THERE,),
        facts.machine(),
        facts.versions(),
    )
    return _judged(made, max_drop)


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
