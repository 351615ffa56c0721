"""What an inference engine is to shrinkc: small for the one that proves, larger for those in processes of their own.

What was reached is one of four levels, strictly in this order: *converted*, *loaded*, *validated*, *timed*.  A file that a
converter wrote without complaint is converted, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from shrinkc.signature import Signature

THIS_MACHINE = "this machine"
"""What reports call the place where shrinkc itself runs."""

LEVELS = ("not run", "converted", "loaded", "validated", "timed")
"""What can be reached, in order; ``not run`` always comes with a reason."""

CONVERSION_TIMEOUT_S = 600.0
"""Most time of one conversion, where nothing else is said."""

SUPPORTED, UNSUPPORTED, UNKNOWN = "supported", "unsupported", "unknown"


@dataclass(frozen=True)
class Probe:
    """Whether a runtime can be used here, as far as can be told without importing it.

    Attributes
    ----------
    is_available : bool
    version : str
    reason : str
        Why it is not available.
    hint : str
        The command that brings it.
    devices : tuple of str
        What it could run on here.
    isa : tuple of str
        Instruction sets of the processor that matter to it.
    """

    is_available: bool
    version: str = ""
    reason: str = ""
    hint: str = ""
    devices: tuple[str, ...] = ()
    isa: tuple[str, ...] = ()


class Probed(Protocol):
    """Anything that can say whether it is here."""

    def probe(self) -> Probe:
        """Whether it can be used, and why not."""


def probe_of(engine: Probed) -> Probe:
    """What an engine says of itself; a plug-in whose probe raises anything is not available, and the reason says so."""
    try:
        return engine.probe()
    except Exception as error:
        return Probe(False, reason=f"its probe failed: {type(error).__name__}: {str(error)[:400]}")


@dataclass(frozen=True)
class Effective:
    """What a session really runs on, as opposed to what was asked for.

    Attributes
    ----------
    runtime, version, provider, precision : str
        ``precision`` is numpy's name of the type it computes in; ``mixed`` where kernels differ.
    threads : int
    is_spinning : bool
    device : str
        Processor or board, as it calls itself.
    kernels : tuple of str
        Kernel types seen, where the engine tells them.
    place : str
        Where: this machine, arm64 emulated, a board.
    """

    runtime: str
    version: str
    provider: str
    precision: str
    threads: int
    is_spinning: bool
    device: str = ""
    kernels: tuple[str, ...] = ()
    place: str = THIS_MACHINE


@dataclass(frozen=True)
class RunConfig:
    """How to run a model.

    Attributes
    ----------
    threads : int
        0 leaves the number to the engine.
    is_spinning : bool
        Whether idle threads burn time to wake faster.
    precision : str
        Type to compute in: float32, float16 or bfloat16.
    device : str
        Of an engine that has several; empty for its first.
    """

    threads: int = 1
    is_spinning: bool = False
    precision: str = "float32"
    device: str = ""


@dataclass(frozen=True)
class ConvertConfig:
    """What a converter is told.

    Attributes
    ----------
    precision : str
        Type the weights are stored in: float32 or float16.
    shapes : mapping of input name to shape
        Sizes of free dimensions; what is not named gets the default, see :func:`shrinkc.shapes.input_shapes`.
    options : mapping
        Further settings of one engine, by its own names.
    timeout_s : float
    """

    precision: str = "float32"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = CONVERSION_TIMEOUT_S


@dataclass(frozen=True)
class ArtifactFile:
    """One file an engine loads; ``name`` is relative to the artifact's folder."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Artifact:
    """What a converter wrote, and how to feed it.

    Attributes
    ----------
    runtime, version, precision : str
        Who wrote it, and the type its weights are in.
    folder : Path
    files : tuple of ArtifactFile
    signature : Signature
        Of the ONNX model it comes from, at the shapes it was built for.
    details : mapping
        What the engine needs to know again when it loads it: names of its own, layouts.
    warnings : tuple of str
        What the converter said.
    command : tuple of str
        How it was called, where it is a program.
    seconds : float
        It took.
    """

    runtime: str
    version: str
    precision: str
    folder: Path
    files: tuple[ArtifactFile, ...]
    signature: Signature
    details: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class NodeVerdict:
    """What an engine says of one node: supported, unsupported or unknown."""

    node: str
    op_type: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class SupportReport:
    """What an engine says of a model before it is built; ``checker`` names who said it."""

    checker: str
    version: str
    verdicts: tuple[NodeVerdict, ...]
    note: str = ""

    def refused(self) -> tuple[NodeVerdict, ...]:
        """Nodes the engine does not support."""
        return tuple(verdict for verdict in self.verdicts if verdict.status == UNSUPPORTED)


@dataclass(frozen=True)
class Measurement:
    """Raw samples of one block of runs, inside the engine's process; layout changes of ours are not in them.

    Attributes
    ----------
    wall_s : tuple of float
        Seconds of every run.
    cpu_s : tuple of float
        CPU seconds of the engine's process per run, all threads together.
    threads : int
    load_average : float
        Of the machine, over the last minute.
    peak_memory_bytes : int
        Largest resident size of the engine's process so far, the engine's own libraries included.
    is_contended : bool
        Wall and CPU time disagree at one thread: other work disturbed the measurement.
    """

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    threads: int
    load_average: float
    peak_memory_bytes: int
    is_contended: bool


@dataclass(frozen=True)
class LayerTime:
    """Time of one thing the engine runs.

    Attributes
    ----------
    name, op_type : str
        As the engine calls it.
    time_s : float
        Seconds of one run, the median over runs.
    kernel : str
    sources : tuple of str
        Nodes of the ONNX model it comes from, where the engine itself tells them; several where they were fused.
    """

    name: str
    op_type: str
    time_s: float
    kernel: str = ""
    sources: tuple[str, ...] = ()


Convert = Callable[[Path, Path, ConvertConfig], Artifact]
"""Writes what an engine loads of a model into a folder; see :meth:`Engine.convert`."""


class Session(Protocol):
    """A loaded model."""

    def effective(self) -> Effective:
        """What it really runs on."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by their ONNX names."""


class EngineSession(Session, Protocol):
    """A model loaded by an engine in a process of its own; a context manager that ends it."""

    def bench(self, inputs: Mapping[str, NDArray[Any]], *, runs: int = 0, seconds: float = 0.0, warmup: int = 1) -> Measurement:
        """Time runs on one set of inputs: ``runs`` of them, or as many as fit into ``seconds``."""

    def profile(self, inputs: Mapping[str, NDArray[Any]], *, runs: int = 5) -> tuple[LayerTime, ...] | None:
        """Times of layers; None if the engine does not offer them."""

    def close(self) -> None:
        """End the process."""

    def __enter__(self) -> EngineSession:
        """Return itself."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""


@runtime_checkable
class Reloading(Protocol):
    """A session of an engine, moreover, whose process takes one model after another: starting it can take longer than a run."""

    def reload(self, artifact: Artifact) -> None:
        """Load another artifact in the place of the one it has.

        Raises
        ------
        RuntimeUnavailable
            The engine, or the device asked for, is missing.
        BuildError
            It refuses the file, crashes or hangs.
        """

    def machine(self) -> Mapping[str, Any]:
        """Processor, number of CPUs and system of where it runs, by the keys of :func:`shrinkc.report.facts.machine`.

        Raises
        ------
        BuildError
            The process has ended.
        """


@runtime_checkable
class Converting(Protocol):
    """An engine, moreover, whose converter takes one model after another in one process: starting that can take longest."""

    def converter(self) -> AbstractContextManager[Convert]:
        """What :meth:`Engine.convert` does, until the context ends.

        Raises
        ------
        RuntimeUnavailable
            The engine or its converter is missing.
        """


@runtime_checkable
class RuntimeAdapter(Protocol):
    """An engine that runs ONNX models in this process: what the proof and the evidence need."""

    name: str

    def probe(self) -> Probe:
        """Whether the engine is here; never raises, never downloads."""

    def load(self, model: Path | bytes, config: RunConfig) -> Session:
        """Load an ONNX model.

        Raises
        ------
        BuildError
            The engine refuses the model.
        """


@runtime_checkable
class Engine(Protocol):
    """An engine behind a process boundary: it may crash, hang or be missing, and the run goes on.

    Attributes
    ----------
    name : str
    formats : tuple of str
        Of its files: ``("onnx",)``, ``("ncnn.param", "ncnn.bin")``.
    """

    name: str
    formats: tuple[str, ...]

    def probe(self) -> Probe:
        """Whether the engine is here; never raises, never imports it, never downloads."""

    def supports(self, model: Path) -> SupportReport:
        """What it says of every node; no verdicts where it offers no check.

        Raises
        ------
        RuntimeUnavailable, BuildError
        """

    def convert(self, model: Path, folder: Path, config: ConvertConfig) -> Artifact:
        """Write what the engine loads into a folder.

        Raises
        ------
        RuntimeUnavailable
            The engine or its converter is missing.
        BuildError
            The converter refuses the model, ends without a file, crashes or hangs.
        """

    def open(self, artifact: Artifact, config: RunConfig) -> EngineSession:
        """Load an artifact.

        Raises
        ------
        RuntimeUnavailable
            The engine, or the device asked for, is missing.
        BuildError
            It refuses the file, crashes or hangs.
        """
