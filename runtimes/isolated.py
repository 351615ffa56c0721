"""What engines in processes of their own have in common: a backend file, a place to run it, and the traffic in between."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from numpy.typing import NDArray
from shrinkc.runtimes import processor
from shrinkc.runtimes.isolation import HERE, Child, Place, is_importable

from shrinkc.api import (
    Artifact,
    ArtifactFile,
    Convert,
    ConvertConfig,
    Effective,
    LayerTime,
    Measurement,
    Probe,
    RunConfig,
    Signature,
    SupportReport,
)
from shrinkc.errors import BuildError, RuntimeUnavailable
from shrinkc.files import sha256
from shrinkc.signature import read_signature

BACKENDS = Path(__file__).with_name("backends")

RUN_TIMEOUT_S, EXAMINE_TIMEOUT_S = 300.0, 60.0

Inputs = Mapping[str, NDArray[Any]]


class IsolatedEngine:
    """An engine in a process of its own.  A subclass names what sets it apart.

    Attributes
    ----------
    name : str
    formats : tuple of str
    backend : Path
        See :mod:`shrinkc.runtimes.agent`.
    distributions : tuple of str
        Installed packages that bring it; the first one's version is the engine's.
    modules : tuple of str
        What must be importable.
    hint : str
        Command that brings it.
    load_timeout_s : float

    Parameters
    ----------
    place : Place
        Where it loads and runs models; converters run on this machine.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    backend: ClassVar[Path]
    distributions: ClassVar[tuple[str, ...]]
    modules: ClassVar[tuple[str, ...]]
    hint: ClassVar[str]
    load_timeout_s: ClassVar[float] = 300.0

    def __init__(self, place: Place = HERE) -> None:
        self.place = place

    def probe(self) -> Probe:
        """Whether its packages are installed, told from their metadata."""
        missing = [module for module in self.modules if not is_importable(module)]
        if missing:
            return Probe(False, reason=f"not installed: {', '.join(missing)}", hint=self.hint)
        return Probe(True, version=self.version(), devices=self.devices(), isa=processor.instruction_sets())

    def examine(self) -> Probe:
        """What :meth:`probe` says, and whether it can be imported: by doing so in a process of its own."""
        found = self.probe()
        if not found.is_available:
            return found
        try:
            with Child(self.backend, self.place) as child:
                answer, _ = child.request(
                    "call", {"function": "probe", "arguments": self.examination()}, timeout_s=EXAMINE_TIMEOUT_S
                )
        except (BuildError, RuntimeUnavailable) as error:
            return replace(found, is_available=False, reason=f"{error.message}: {error.because}", hint=self.hint)
        return replace(found, version=answer["version"], devices=tuple(answer.get("devices", found.devices)))

    def examination(self) -> dict[str, Any]:
        """Arguments of the backend's ``probe``."""
        return {}

    def version(self) -> str:
        """Version of the first of its packages that is installed; empty if that cannot be told."""
        for distribution in self.distributions:
            try:
                return metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
        return ""

    def devices(self) -> tuple[str, ...]:
        """What it can run on here."""
        return ("CPU",)

    def supports(self, model: Path) -> SupportReport:
        """No verdicts: most engines offer no check but to try."""
        return SupportReport("", self.version(), ())

    def convert(self, model: Path, folder: Path, config: ConvertConfig) -> Artifact:
        """Run the converter in a process of its own.

        Raises
        ------
        RuntimeUnavailable
            The engine or its converter is missing.
        BuildError
            The converter refuses the model, ends without a file, crashes or hangs.
        """
        with self.converter() as convert:
            return convert(model, folder, config)

    @contextmanager
    def converter(self) -> Iterator[Convert]:
        """See :class:`shrinkc.engines.Converting`."""
        self.require()
        with self.converting_child() as child:
            yield partial(self._converted, child)

    def _converted(self, child: Child, model: Path, folder: Path, config: ConvertConfig) -> Artifact:
        folder.mkdir(parents=True, exist_ok=True)
        signature = read_signature(model, config.shapes)
        started = time.perf_counter()
        arguments = self.conversion(model, folder, signature, config)
        there = {"model": child.place.bring(child, Path(arguments["model"])), "folder": child.place.folder(folder)}
        request = {"function": "convert", "arguments": {**arguments, **there}}
        answer, _ = child.request("call", request, timeout_s=config.timeout_s)
        for name in answer["files"]:
            child.place.fetch(child, name, folder)
        artifact = _artifact(self, folder, signature, config, answer)
        return replace(artifact, seconds=time.perf_counter() - started)

    def converting_child(self) -> Child:
        """Process the converter runs in."""
        return Child(self.backend, HERE)

    def conversion(self, model: Path, folder: Path, signature: Signature, config: ConvertConfig) -> dict[str, Any]:
        """Arguments of the backend's ``convert``."""
        return {
            "model": str(model),
            "signature": asdict(signature),
            "precision": config.precision,
            "options": dict(config.options),
        }

    def open(self, artifact: Artifact, config: RunConfig) -> IsolatedSession:
        """Load an artifact.

        Raises
        ------
        RuntimeUnavailable
            The engine, or the device asked for, is missing.
        BuildError
            It refuses the file, crashes or hangs.
        """
        self.require()
        return IsolatedSession(self, artifact, config)

    def require(self) -> None:
        """Refuse to go on without the engine.

        Raises
        ------
        RuntimeUnavailable
        """
        probe = self.probe()
        if not probe.is_available:
            raise RuntimeUnavailable("the runtime is not usable here", where=self.name, because=probe.reason, hint=probe.hint)


def _artifact(
    engine: IsolatedEngine,
    folder: Path,
    signature: Signature,
    config: ConvertConfig,
    answer: Mapping[str, Any],
) -> Artifact:
    absent = [name for name in answer["files"] if not (folder / name).is_file()]
    if absent or not answer["files"]:
        raise BuildError(
            "the converter wrote no file",
            where=engine.name,
            because=f"it reported success; missing: {', '.join(absent) or 'all'}",
        )
    files = tuple(ArtifactFile(name, sha256(folder / name), (folder / name).stat().st_size) for name in answer["files"])
    return Artifact(
        engine.name,
        engine.version(),
        answer.get("precision", config.precision),
        folder,
        files,
        signature,
        answer.get("details", {}),
        tuple(answer.get("warnings", ())),
        tuple(answer.get("command", ())),
    )


def _frozen(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in answer.items()}


class IsolatedSession:
    """A model loaded in an engine's process; close it, or use it as a context manager.

    Parameters
    ----------
    engine : IsolatedEngine
    artifact : Artifact
    config : RunConfig
    """

    def __init__(self, engine: IsolatedEngine, artifact: Artifact, config: RunConfig) -> None:
        self._config, self._name, self._timeout_s = config, engine.name, engine.load_timeout_s
        self._child = Child(engine.backend, engine.place, config.threads)
        try:
            self.reload(artifact)
        except BaseException:
            self._child.close()
            raise

    def reload(self, artifact: Artifact) -> None:
        """See :class:`shrinkc.engines.Reloading`."""
        answer, _ = self._child.request("load", self._loading(artifact, self._config), timeout_s=self._timeout_s)
        self._effective = self._read(answer)

    def machine(self) -> dict[str, Any]:
        """Processor, number of CPUs and system of where it runs.

        Raises
        ------
        BuildError
            The process has ended.
        """
        found, _ = self._child.request("machine", {}, timeout_s=RUN_TIMEOUT_S)
        return found

    def _loading(self, artifact: Artifact, config: RunConfig) -> dict[str, Any]:
        return {
            "files": [self._child.place.bring(self._child, artifact.folder / file.name) for file in artifact.files],
            "signature": asdict(artifact.signature),
            "details": dict(artifact.details),
            **asdict(config),
        }

    def _read(self, answer: Mapping[str, Any]) -> Effective:
        given = Effective(self._name, "", "", "", self._config.threads, self._config.is_spinning)
        return replace(given, place=self._child.place.name, **_frozen(answer))

    def effective(self) -> Effective:
        """What it really runs on, as the engine told last."""
        return self._effective

    def run(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """Outputs by their ONNX names, in ONNX's layout.

        Raises
        ------
        BuildError
            The engine fails, crashes or hangs.
        """
        answer, outputs = self._child.request("run", {}, inputs, timeout_s=RUN_TIMEOUT_S)
        self._effective = self._read(answer)
        return outputs

    def bench(self, inputs: Inputs, *, runs: int = 0, seconds: float = 0.0, warmup: int = 1) -> Measurement:
        """Time runs inside the engine's process.

        Raises
        ------
        RuntimeUnavailable
            A time measured in this place would mean nothing.
        BuildError
            The engine fails, crashes or hangs.
        """
        if not self._child.place.can_be_timed:
            raise RuntimeUnavailable("times are not taken there", where=self._child.place.name, because="it is emulated")
        request = {"runs": runs, "seconds": seconds, "warmup": warmup, "threads": self._config.threads}
        found, _ = self._child.request("bench", request, inputs, timeout_s=RUN_TIMEOUT_S + 10 * seconds)
        return Measurement(**_frozen(found))

    def profile(self, inputs: Inputs, *, runs: int = 5) -> tuple[LayerTime, ...] | None:
        """Times of layers, None if the engine does not offer them.

        Raises
        ------
        BuildError
            The engine fails, crashes or hangs.
        """
        found, _ = self._child.request("profile", {"runs": runs}, inputs, timeout_s=RUN_TIMEOUT_S)
        if found["layers"] is None:
            return None
        return tuple(LayerTime(**{**layer, "sources": tuple(layer.get("sources", ()))}) for layer in found["layers"])

    def log(self) -> list[str]:
        """What the engine printed, by lines."""
        return self._child.log()

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def __enter__(self) -> IsolatedSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
