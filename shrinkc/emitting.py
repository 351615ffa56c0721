"""What a TensorRT target needs beside the compressed model: the precision it wants, how to build there, what is not known.

Nothing here claims that an engine was built.  The ONNX files are checked with onnxruntime; what TensorRT takes is told by the
parser of TensorRT for RTX, where that is installed, and is a hint, for boards have other versions.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc import precision, registry
from shrinkc.api import Engine, RunConfig, RuntimeAdapter
from shrinkc.errors import BuildError, RecipeError, ShrinkcError
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence import quality as evidence_quality
from shrinkc.evidence.data import Data
from shrinkc.files import sha256, write_text
from shrinkc.latency.layers import layer_of
from shrinkc.opening import Opened
from shrinkc.shapes import Shadow, real_inputs
from shrinkc.target import Target
from shrinkc.timing import made_up_feed

SCHEMA = "shrinkc.deployment/1"

RUNTIMES = ("tensorrt", "onnxruntime-tensorrt")
CHECKER = "tensorrt-rtx"
SCRIPT = "tensorrt_on_board.py"

CALIBRATION_BATCHES, QUALITY_BATCH = 64, 64

ENGINE_RULES = (
    "Engines are built on the device: they fit one TensorRT version and one kind of GPU.",
    "Keep timing.cache between builds: later ones are quicker and choose the same kernels.",
)
"""From docs.nvidia.com, engine compatibility of TensorRT 11."""

UNVERIFIED_COMMANDS = "The options of trtexec are from its documentation and from memory; none was run on a board."


@dataclass(frozen=True)
class Variant:
    """One ONNX file for the board.

    Attributes
    ----------
    file, precision, sha256 : str
    size_bytes : int
    checked : str
        How its outputs compare with the compressed model's, on onnxruntime.
    verdict : str
        What TensorRT's parser says, or why it was not asked.
    zero_points : tuple of int
        Of its Q/DQ nodes; empty where there are none.
    """

    file: str
    precision: str
    sha256: str
    size_bytes: int
    checked: str
    verdict: str
    zero_points: tuple[int, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """Everything that lies in the target's folder, and what is known of it.

    ``compressed_sha256`` is of the model that the files were made of, ``reference_sha256`` of what boards compare with.
    """

    target: str
    compressed_sha256: str
    reference_sha256: str
    variants: tuple[Variant, ...]
    commands: Mapping[str, tuple[str, ...]]
    unaligned: tuple[str, ...]
    notes: tuple[str, ...]
    validated: tuple[str, ...]
    not_validated: tuple[str, ...]
    failures: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        return {"schema": SCHEMA, **asdict(self)}


def folder_of(output: Path, target: Target) -> Path:
    """Where the files for a target lie."""
    return output.with_name(f"{output.name.removesuffix('.onnx')}.{target.name}")


def is_wanted(target: Target) -> bool:
    """Whether a target's files are written."""
    return target.runtime in RUNTIMES and not target.is_here


def check_folder(output: Path, target: Target) -> None:
    """Refuse a folder that cannot be made.

    Raises
    ------
    RecipeError
        A file is in the way.
    """
    folder = folder_of(output, target)
    if is_wanted(target) and folder.exists() and not folder.is_dir():
        raise RecipeError("a result cannot be written there", where=str(folder), because="a file is in the way")


def emit(output: Path, opened: Opened, target: Target, runtime: RuntimeAdapter, samples: Data | None) -> Deployment:
    """Write the folder of a target beside a compressed model.

    Parameters
    ----------
    output : Path
        The compressed model.
    opened : Opened
        The original, for names and sizes of inputs.
    target : Target
    runtime : RuntimeAdapter
        That checks the files here.
    samples : Data or None
        Real samples: with them there is an INT8 variant.
    """
    folder = folder_of(output, target)
    folder.mkdir(parents=True, exist_ok=True)
    feed = made_up_feed(opened) if samples is None else samples.head(evidence_data.fixed_batch(opened.model) or 1)
    failures: list[str] = []
    variants = [
        found
        for name in _wanted(target, samples)
        if (found := _variant(name, output, folder, opened, runtime, samples, feed, failures)) is not None
    ]
    _write_reference(folder / "reference.npz", output, runtime, feed)
    (folder / SCRIPT).write_text(files("shrinkc.boards").joinpath(SCRIPT).read_text(encoding="utf-8"), encoding="utf-8")
    commands = {f"trtexec-{major}.sh": tuple(_command(major, v.file, opened) for v in variants) for major in (10, 11)}
    for name, lines in commands.items():
        write_text(folder / name, "#!/bin/sh\n# " + UNVERIFIED_COMMANDS + "\nset -e\n" + "\n".join(lines) + "\n")
    made = Deployment(
        target.name,
        sha256(output),
        sha256(folder / "reference.npz"),
        tuple(variants),
        commands,
        unaligned_layers(output, opened, target),
        (*ENGINE_RULES, *_dla_notes(target), *target.notes, UNVERIFIED_COMMANDS),
        tuple(f"{variant.file}: {variant.checked}" for variant in variants),
        ("no engine was built", "nothing was run or timed on the target", *_unverified(target)),
        tuple(failures),
    )
    write_text(folder / "deployment.json", json.dumps(made.to_json(), indent=1) + "\n")
    write_text(folder / "README.md", _readme(made, target))
    return made


def _wanted(target: Target, samples: Data | None) -> list[str]:
    """Precisions: the target's own, and int8 where there is data and the device is known to gain by it."""
    has_int8 = any(name in target.figures for name in ("int8_tops", "int8_sparse_tops"))
    return [target.precision, *(["int8"] if samples is not None and has_int8 else [])]


def _variant(
    name: str,
    output: Path,
    folder: Path,
    opened: Opened,
    runtime: RuntimeAdapter,
    samples: Data | None,
    feed: Mapping[str, NDArray[Any]],
    failures: list[str],
) -> Variant | None:
    path = folder / f"model.{'fp16' if name == 'float16' else name}.onnx"
    try:
        if name == "float16":
            precision.to_float16(output, path)
        elif name == "int8" and samples is not None:
            precision.to_int8(output, path, _batches(opened, samples), precision.STYLES["tensorrt"])
        else:
            shrinkc_ir.save(shrinkc_ir.load(output), path)
        checked = _checked(output, path, opened, runtime, samples, feed)
    except BuildError as error:
        failures.append(f"{path.name}: {error.message}: {error.because}")
        return None
    points = tuple(precision.zero_points(path)) if name == "int8" else ()
    return Variant(path.name, name, sha256(path), path.stat().st_size, checked, verdict(path), points)


def _batches(opened: Opened, samples: Data) -> list[dict[str, NDArray[Any]]]:
    size = evidence_data.fixed_batch(opened.model) or 1
    return [batch for batch in list(samples.batches(size))[:CALIBRATION_BATCHES] if len(next(iter(batch.values()))) == size]


def _checked(
    output: Path,
    path: Path,
    opened: Opened,
    runtime: RuntimeAdapter,
    samples: Data | None,
    feed: Mapping[str, NDArray[Any]],
) -> str:
    """What changed against the compressed model, in a sentence."""
    before, after = (runtime.load(file, RunConfig()) for file in (output, path))
    if samples is not None:
        batch = evidence_data.fixed_batch(opened.model) or QUALITY_BATCH
        found = evidence_quality.measure(before, after, samples, batch)
        parts = [f"{one.output}: relative error {one.relative_error:.2%}" for one in found.agreement]
        if found.accuracy_before is not None and found.accuracy_after is not None:
            parts.append(f"accuracy {found.accuracy_before:.2%} to {found.accuracy_after:.2%}")
        return f"on onnxruntime, {found.samples} samples: {', '.join(parts)}"
    wanted, got = before.run(feed), after.run(feed)
    errors = {name: _relative(wanted[name], got[name]) for name in wanted}
    listed = ", ".join(f"{name}: error {error:.2e} of the largest value" for name, error in errors.items())
    return f"on onnxruntime, made-up inputs: {listed}"


def _relative(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    span = float(np.abs(wanted).max(initial=0.0)) or 1.0
    return float(np.abs(wanted.astype(np.float64) - got).max(initial=0.0)) / span


def verdict(path: Path) -> str:
    """What the parser of TensorRT for RTX says of a file, or why it was not asked."""
    try:
        engine = registry.built("runtimes", CHECKER)
        probe = engine.probe()
        if not isinstance(engine, Engine) or not probe.is_available:
            return f"not checked: {probe.reason or 'no such runtime'} ({probe.hint or CHECKER})"
        found = engine.supports(path)
    except ShrinkcError as error:
        return f"not checked: {error.message}: {error.because}"
    refused = [f"{one.node} ({one.op_type}): {one.reason}" for one in found.refused()]
    said = f"refuses {len(refused)} nodes: {'; '.join(refused[:5])}" if refused else "takes every node"
    return f"the {found.checker} {found.version} {said}; the board's TensorRT may differ"


def _write_reference(path: Path, output: Path, runtime: RuntimeAdapter, feed: Mapping[str, NDArray[Any]]) -> None:
    """Inputs, and the compressed model's outputs on onnxruntime, for the check on the board."""
    found = runtime.load(output, RunConfig()).run(feed)
    arrays = {**{f"in.{name}": array for name, array in feed.items()}, **{f"out.{name}": out for name, out in found.items()}}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _command(major: int, file: str, opened: Opened) -> str:
    """How trtexec builds and times a file; TensorRT 11 knows strongly typed networks only and needs no word for it."""
    stem = file.removesuffix(".onnx")
    words = ["trtexec", f"--onnx={file}", f"--saveEngine={stem}.engine", "--timingCacheFile=timing.cache"]
    words += ["--stronglyTyped"] if major == 10 else []
    words += _shapes(opened)
    words += ["--profilingVerbosity=detailed", "--separateProfileRun", "--warmUp=1000", "--duration=10"]
    words += [f"--export{what}={stem}.{what.lower()}.json" for what in ("Times", "Profile", "LayerInfo")]
    return shlex.join(words)


def _shapes(opened: Opened) -> list[str]:
    """Sizes of inputs that leave some free; trtexec refuses sizes of fixed ones."""
    free = [
        value.name or ""
        for value in real_inputs(opened.model)
        if value.shape is not None and not all(isinstance(size, int) for size in value.shape)
    ]
    sizes = ",".join(f"{name}:{'x'.join(map(str, opened.shapes[name]))}" for name in free)
    return [f"--shapes={sizes}"] if sizes else []


def unaligned_layers(output: Path, opened: Opened, target: Target) -> tuple[str, ...]:
    """Layers of the compressed model with widths that are no multiples of what the target likes."""
    model = shrinkc_ir.load(output)
    shadow, multiple = Shadow.of(model, opened.shapes), target.channel_multiple
    layers = [layer_of(node, 1, shadow) for node in model.graph if len(node.inputs) > 1]
    return tuple(
        f"{layer.node.name or layer.node.op_type}: {' to '.join(map(str, layer.widths))}"
        for layer in layers
        if layer is not None and any(width % multiple for width in layer.widths)
    )


def _dla_notes(target: Target) -> tuple[str, ...]:
    cores = target.figures.get("dla_cores")
    if cores is None:
        return ("DLA: nothing is known of it on this target.",)
    state = f"{cores.source}; {'verified' if cores.is_verified else 'not verified'}"
    if cores.value == 0:
        return (f"DLA: none ({state}).",)
    return (
        f"DLA: {cores.value} ({state}).  The recipes use the GPU only.",
        "DLA under TensorRT 11 is for AGX Orin only; 10.7 is the last 10.x named for it (docs.nvidia.com, Working with DLA).",
    )


def _unverified(target: Target) -> Sequence[str]:
    names = [name for name, figure in target.figures.items() if not figure.is_verified]
    return [f"figures of the profile that nobody checked: {', '.join(names)}"] if names else []


def _readme(made: Deployment, target: Target) -> str:
    lines = [f"# For {target.name}: {target.description}", "", "Copy this folder to the board.  There:", ""]
    lines += [f"    python3 {SCRIPT} {v.file} reference.npz -o {v.file}.result.json" for v in made.variants]
    lines += ["", "builds an engine, compares it with `reference.npz`, times it and writes the JSON file to carry back."]
    lines += ["Back here, `shrinkc targets read *.result.json --folder THIS_FOLDER` checks it and puts it into the report."]
    lines += ["Or with trtexec: `sh trtexec-10.sh` under TensorRT 10, `sh trtexec-11.sh` under TensorRT 11.", ""]
    lines += _section("Files", [f"{v.file}: {v.precision}, {v.size_bytes} bytes; {v.verdict}" for v in made.variants])
    lines += _section("Not made", made.failures)
    lines += _section("Checked", made.validated) + _section("NOT checked", made.not_validated)
    about = f"Widths that are no multiples of {target.channel_multiple}"
    lines += _section(about, made.unaligned) + _section("Notes", made.notes)
    return "\n".join(lines) + "\n"


def _section(title: str, entries: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {entry}" for entry in entries), ""] if entries else []
