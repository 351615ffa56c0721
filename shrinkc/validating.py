"""A compressed model beside its original on every engine that is here: whether it converts, loads and computes the same."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import bfloat16, registry
from shrinkc import ir as shrinkc_ir
from shrinkc.api import ConvertConfig, Engine, EngineSession, Port, RunConfig, RuntimeAdapter, SupportReport
from shrinkc.comparing import compare, worst
from shrinkc.diverging import locate
from shrinkc.engines import CONVERSION_TIMEOUT_S, probe_of
from shrinkc.errors import BuildError, CalibrationError, PluginError, RecipeError, RuntimeUnavailable, ShrinkcError
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence import sources
from shrinkc.evidence.data import Data
from shrinkc.evidence.synthetic import synthesise
from shrinkc.files import sha256
from shrinkc.latency import probe
from shrinkc.latency.engine_timing import cpu_threads
from shrinkc.log import Progress, Silent
from shrinkc.report import facts
from shrinkc.report.validation import FAILED, NOT_RUN, OK, EngineResult, Validation
from shrinkc.shapes import input_shapes, real_inputs
from shrinkc.signature import read_signature
from shrinkc.tolerances import INT8, TOLERANCES, excuse, objection, stored_type

AUTO = "auto"
BFLOAT16 = "bfloat16"
REFERENCE = "onnxruntime-cpu"

ROUNDED = ", in float32 with every value rounded as bfloat16 is"
"""How the reference runs files in bfloat16, for which it has no kernels on the processor."""

Feed = Mapping[str, NDArray[Any]]
Outputs = Sequence[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class _Job:
    """What every engine is asked to do."""

    reference: RuntimeAdapter
    original: Path
    compressed: Path
    feeds: Sequence[Feed]
    expected: Outputs
    before: Outputs
    conversion: ConvertConfig
    config: RunConfig
    stored: str
    is_real: bool
    is_timed: bool
    kept: Path | None = None

    @property
    def counts_classes(self) -> bool:
        """Whether the class that wins decides where numbers alone do not."""
        return self.stored == INT8 and self.is_real


def validate(
    original: str | os.PathLike[str],
    compressed: str | os.PathLike[str],
    *,
    runtimes: Sequence[str] = (AUTO,),
    data: sources.Source | None = None,
    preprocess: str | None = None,
    n_inputs: int = 4,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    precision: str = "float32",
    threads: int = 1,
    seed: int = 0,
    is_timed: bool = False,
    keep: str | os.PathLike[str] | None = None,
    timeout_s: float = CONVERSION_TIMEOUT_S,
    progress: Progress | None = None,
) -> Validation:
    """Run a compressed model on several engines and compare with onnxruntime on the same model and on the original.

    Parameters
    ----------
    original, compressed : path
    runtimes : sequence of str
        Names of engines; ``auto`` stands for every engine that is registered.
    data : source, optional
        See :func:`shrinkc.evidence.sources.load`; inputs are made up without.
    preprocess : str, optional
    n_inputs : int
        Runs compared, each of the model's batch.
    input_shapes : mapping, optional
        Sizes of free dimensions.
    precision : str
        Type the engines shall compute in.
    threads : int
    seed : int
        Of made-up inputs.
    is_timed : bool
        Also time both models, in turns, on every engine whose numbers are right; never on one that is emulated.
    keep : path, optional
        Folder for what every engine's converter makes of the compressed model, in a folder of the engine's name.
    timeout_s : float
        Most seconds of one conversion; a converter that takes longer is ended, and the others go on.
    progress : Progress, optional

    Raises
    ------
    ShrinkcError
        A model or the data cannot be read, no runtime is named or a name is none, the models take different inputs, or
        onnxruntime itself cannot run them.  What an engine does wrong is a result, not an error.
    """
    reporter = progress or Silent()
    engines = _engines(runtimes)
    paths = Path(original), Path(compressed)
    model = shrinkc_ir.load(paths[0])
    samples = _samples(model, data, preprocess, n_inputs, dict(input_shapes or {}), seed)
    feeds = list(samples.batches(evidence_data.fixed_batch(model) or 1))[:n_inputs]
    config = RunConfig(threads, precision=precision)
    job = _job(paths, feeds, config, reporter, is_real=not samples.is_synthetic, is_timed=is_timed)
    conversion = replace(job.conversion, timeout_s=timeout_s)
    job = replace(job, kept=None if keep is None else Path(keep), conversion=conversion)
    results = []
    for name, engine in engines.items():
        with reporter.stage(f"validating on {name}"):
            results.append(_validated(name, engine, job))
    return Validation(
        paths[0].name,
        paths[1].name,
        sha256(paths[0]),
        sha256(paths[1]),
        f"{len(job.feeds)} from {samples.source}",
        samples.is_synthetic,
        compare(job.before, job.expected),
        tuple(results),
        facts.machine(),
        facts.versions(),
        REFERENCE + (ROUNDED if job.stored == BFLOAT16 else ""),
    )


def validated_on(
    engine: Engine,
    original: Path,
    compressed: Path,
    feeds: Sequence[Feed],
    config: RunConfig,
    progress: Progress,
    *,
    is_real: bool,
    is_timed: bool,
) -> EngineResult:
    """The same on one engine, of inputs at hand; ``is_real`` unless they were made up.

    Raises
    ------
    ShrinkcError
        onnxruntime itself cannot run the models.
    """
    job = _job((original, compressed), feeds, config, progress, is_real=is_real, is_timed=is_timed)
    with progress.stage(f"validating on {engine.name}"):
        return _validated(engine.name, engine, job)


def _job(
    paths: tuple[Path, Path], feeds: Sequence[Feed], config: RunConfig, progress: Progress, *, is_real: bool, is_timed: bool
) -> _Job:
    sizes = {name: tuple(array.shape) for name, array in feeds[0].items()}
    refuse_other_inputs(*paths, sizes)
    reference: RuntimeAdapter = registry.load("runtimes", REFERENCE)()
    with progress.stage(f"running both models on {REFERENCE}"):
        before, expected = (_outputs(reference, path, feeds) for path in paths)
    conversion = ConvertConfig(config.precision, sizes)
    stored = stored_type(shrinkc_ir.load(paths[1]))
    return _Job(reference, *paths, feeds, expected, before, conversion, config, stored, is_real, is_timed)


def _outputs(reference: RuntimeAdapter, path: Path, feeds: Sequence[Feed]) -> Outputs:
    model = shrinkc_ir.load(path)
    is_rounded = stored_type(model) == BFLOAT16
    session = reference.load(shrinkc_ir.loadable(bfloat16.emulated_file(model)) if is_rounded else path, RunConfig())
    return [session.run(feed) for feed in feeds]


def _engines(names: Sequence[str]) -> dict[str, Engine | ShrinkcError]:
    """Engines by name; those found by ``auto`` that cannot be imported become rows, as a name of the user's does not."""
    if not names:
        raise RecipeError("no runtime is named", where="--runtimes", hint="auto stands for every one that is here")
    found: dict[str, Engine | ShrinkcError] = {}
    for name in names:
        if name != AUTO:
            found[name] = _engine(name)
            continue
        found.update({known: engine for known in registry.names("runtimes") if (engine := _automatic(known)) is not None})
    return found


def _automatic(name: str) -> Engine | ShrinkcError | None:
    """Engine for ``auto``: None of those one has to ask for, an error where a plug-in cannot be imported."""
    try:
        engine = _engine(name)
    except PluginError as error:
        return error
    except RecipeError:
        return None
    return engine if getattr(engine, "is_automatic", True) else None


def _engine(name: str) -> Engine:
    engine = registry.built("runtimes", name)
    if not isinstance(engine, Engine):
        raise RecipeError("the runtime cannot be validated on", where=name, because="it has no convert and open")
    return engine


def _samples(
    model: ir.Model,
    source: sources.Source | None,
    preprocess: str | None,
    n_inputs: int,
    given: dict[str, tuple[int, ...]],
    seed: int,
) -> Data:
    batch = evidence_data.fixed_batch(model) or 1
    if source is None:
        return synthesise(model, input_shapes(model, given), n_inputs * batch, seed)
    if given:
        raise RecipeError("would have no effect with data", where="--input-shapes")
    return sources.load(source, model, preprocess=preprocess, most=n_inputs * batch)


def refuse_other_inputs(original: Path, compressed: Path, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse two models whose inputs or outputs, at sizes of the inputs, are not called the same or of other types.

    Raises
    ------
    CalibrationError
    """
    faces = [_face(path, sizes) for path in (original, compressed)]
    if faces[0] != faces[1]:
        raise CalibrationError(
            "the two models do not take and give the same",
            where=f"{original.name}, {compressed.name}",
            because=f"{faces[0]} and {faces[1]}",
        )


def _face(path: Path, sizes: Mapping[str, tuple[int, ...]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    known = {value.name for value in real_inputs(shrinkc_ir.load(path))}
    signature = read_signature(path, {name: shape for name, shape in sizes.items() if name in known})
    return _names(signature.inputs), _names(signature.outputs)


def _names(ports: Sequence[Port]) -> list[tuple[str, str]]:
    return [(port.name, port.dtype) for port in ports]


def _validated(name: str, engine: Engine | ShrinkcError, job: _Job) -> EngineResult:
    if isinstance(engine, ShrinkcError):
        return EngineResult(name, reason=_text(engine))
    found = probe_of(engine)
    if not found.is_available:
        return EngineResult(name, reason="; ".join(filter(None, [found.reason, found.hint])))
    result = _tried(EngineResult(name, found.version), engine, job.compressed, job)
    if result.status == FAILED:
        again = _tried(EngineResult(name), engine, job.original, replace(job, expected=job.before, is_timed=False, kept=None))
        verdict = "the original does, too" if again.status == FAILED else "the original does not"
        return replace(result, original=f"{verdict} ({again.reason})" if again.reason else verdict)
    return result


def _tried(result: EngineResult, engine: Engine, model: Path, job: _Job) -> EngineResult:
    """Result after conversion, loading, running and comparison, as far as these go."""
    with _folder_for(result.runtime, job.kept) as folder:
        try:
            result = replace(result, support=_support(engine, model))
            artifact = engine.convert(model, folder, job.conversion)
            files = tuple(file.name for file in artifact.files)
            result = replace(result, level="converted", size_bytes=artifact.size_bytes, warnings=artifact.warnings, files=files)
            with engine.open(artifact, job.config) as session:
                result = _compared(_loaded(result, session), engine, session, model, job)
                return _timed(result, engine, session, job) if job.is_timed and result.status == OK else result
        except RuntimeUnavailable as error:
            return replace(result, status=NOT_RUN, reason=_text(error))
        except BuildError as error:
            return replace(result, status=FAILED, reason=_failure(result, engine, error))
        except Exception as error:  # a plug-in may raise anything; the other engines go on
            return replace(result, status=FAILED, reason=f"{type(error).__name__}: {str(error)[:400]}")


@contextmanager
def _folder_for(runtime: str, kept: Path | None) -> Iterator[Path]:
    """Where an engine's files go: a folder of its name that stays if they shall be kept."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="shrinkc-validate-") as folder:
            yield Path(folder)
        return
    own = kept / re.sub(r"[^\w.-]", "_", runtime)
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError("files cannot be kept there", where=str(own), because=error.strerror or str(error)) from error
    yield own
    if not any(own.iterdir()):
        own.rmdir()  # engines that load ONNX itself convert nothing


def _timed(result: EngineResult, engine: Engine, session: EngineSession, job: _Job) -> EngineResult:
    """With the times of both models; only a note where they would mean nothing, or the original does not run there."""
    feed = job.feeds[0]
    with tempfile.TemporaryDirectory(prefix="shrinkc-time-") as folder:
        try:
            session.bench(feed, runs=1)  # refuses an emulated place before anything is converted for it
            artifact = engine.convert(job.original, Path(folder), job.conversion)
            with engine.open(artifact, job.config) as before:
                latency = probe.compare_engines(before, session, feed, cpu_threads(result.provider, job.config.threads))
        except (RuntimeUnavailable, BuildError) as error:
            return replace(result, latency_note=f"not timed: {_text(error)}")
    return replace(result, level="timed", latency=latency)


def _support(engine: Engine, model: Path) -> SupportReport | None:
    report = engine.supports(model)
    return report if report.checker else None


def _failure(result: EngineResult, engine: Engine, error: BuildError) -> str:
    is_converted = engine.formats != ("onnx",)
    if result.level == "converted" and is_converted:
        return f"the converter reported success, but its file does not load: {_text(error)}"
    if result.level == "loaded" and is_converted:
        return f"the converter reported success, and its file loads, but does not run: {_text(error)}"
    return _text(error)


def _text(error: ShrinkcError) -> str:
    return ": ".join(filter(None, [error.message, error.because]))


def _loaded(result: EngineResult, session: EngineSession) -> EngineResult:
    effective = session.effective()
    return replace(
        result,
        level="loaded",
        version=effective.version or result.version,
        place=effective.place,
        provider=effective.provider,
        precision=effective.precision,
    )


def _compared(result: EngineResult, engine: Engine, session: EngineSession, model: Path, job: _Job) -> EngineResult:
    try:
        found = [session.run(feed) for feed in job.feeds]
    except BuildError as error:
        return replace(result, status=FAILED, reason=_failure(result, engine, error))
    tolerance = _tolerance(engine, result.precision, job)
    own = compare(job.expected, found)
    result = replace(result, own=own, total=compare(job.before, found), tolerance=tolerance)
    reason = objection(own, tolerance, job.counts_classes)
    if not reason:
        return replace(result, status=OK, level="validated", reason=excuse(own, tolerance))
    result = replace(result, status=FAILED, reason=reason)
    if job.stored == BFLOAT16:  # the reference does not run parts of such a file
        return result
    feed = _worst_feed(job, found)
    return replace(result, divergence=locate(engine, job.reference, model, feed, tolerance, job.conversion, job.config))


def _tolerance(engine: Engine, precision: str, job: _Job) -> float:
    """Of the type the engine computes in, or of the file's where that is narrower; of half a float where kernels differ."""
    own: Mapping[str, float] = getattr(engine, "tolerances", {})
    half = TOLERANCES["float16"]
    return max(own.get(precision, TOLERANCES.get(precision, half)), TOLERANCES[job.stored])


def _worst_feed(job: _Job, found: Outputs) -> Feed:
    errors = [worst(compare([wanted], [given])).relative for wanted, given in zip(job.expected, found, strict=True)]
    return job.feeds[int(np.argmax(errors))]
