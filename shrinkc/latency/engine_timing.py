"""Times of models on an engine in a process of its own, here or on a board: one process for all, where the engine allows it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from shrinkc.api import Artifact, Convert, ConvertConfig, Converting, Engine, EngineSession, Reloading, RunConfig
from shrinkc.latency import recording
from shrinkc.latency.recording import BLOCK_S, BLOCKS
from shrinkc.latency.table import Table
from shrinkc.report import facts

CPU_PROVIDERS = frozenset({"XNNPACK"})
"""Those that run on the processor without saying so in their name."""


def converted(convert: Convert, model: Path, folder: Path, feed: Mapping[str, np.ndarray], config: RunConfig) -> Artifact:
    """What an engine loads of a model, converted for the sizes of its inputs.

    Raises
    ------
    RuntimeUnavailable, BuildError
    """
    sizes = {name: tuple(array.shape) for name, array in feed.items()}
    return convert(model, folder, ConvertConfig(config.precision, sizes))


def cpu_threads(provider: str, threads: int) -> int:
    """Threads, 0 for accelerators: the CPU time of whoever waits for one says nothing of it."""
    return threads if "cpu" in provider.lower() or provider in CPU_PROVIDERS else 0


def machine_of(session: EngineSession | None) -> Mapping[str, Any]:
    """Facts of the machine a session runs on: a board's, or this one's.

    Raises
    ------
    BuildError
        The session's process has ended.
    """
    return session.machine() if isinstance(session, Reloading) else facts.machine()


def least_of(session: EngineSession, feed: Mapping[str, np.ndarray], seconds: float, config: RunConfig) -> float:
    """Seconds of the run that was disturbed least: of the processor at one thread, else of the wall.

    Raises
    ------
    RuntimeUnavailable, BuildError
    """
    found = session.bench(feed, seconds=seconds, warmup=2)
    is_by_cpu = cpu_threads(session.effective().provider, config.threads) == 1
    return min(found.cpu_s if is_by_cpu else found.wall_s)


class EngineTimer:
    """Seconds of the least run of a short block; a context manager, as processes are kept between models.

    Parameters
    ----------
    engine : Engine
    config : RunConfig
    """

    def __init__(self, engine: Engine, config: RunConfig) -> None:
        self._engine, self._config = engine, config
        self._processes = ExitStack()
        self._session: EngineSession | None = None
        self._convert: Convert | None = None
        self._version = engine.probe().version

    def __call__(self, model: bytes, feed: Mapping[str, np.ndarray]) -> float:
        """Time a model.

        Raises
        ------
        RuntimeUnavailable, BuildError
        """
        with tempfile.TemporaryDirectory(prefix="shrinkc-") as folder:
            path = Path(folder) / "layer.onnx"
            path.write_bytes(model)
            artifact = converted(self._converter(), path, Path(folder) / "built", feed, self._config)
            session = self._loaded(artifact)
            return least_of(session, feed, BLOCKS * BLOCK_S, self._config)

    def _converter(self) -> Convert:
        """One process for all models, where the engine allows it."""
        if self._convert is None:
            kept = self._engine.converter() if isinstance(self._engine, Converting) else nullcontext(self._engine.convert)
            self._convert = self._processes.enter_context(kept)
        return self._convert

    def _loaded(self, artifact: Artifact) -> EngineSession:
        if isinstance(self._session, Reloading):
            self._session.reload(artifact)
        else:
            self._end_session()
            self._session = self._engine.open(artifact, self._config)
        self._version = self._session.effective().version or self._version
        return self._session

    def new_table(self, runtime: str) -> Table:
        """A table without layers, which says what machine the engine runs on and in which version: a board's may differ.

        Raises
        ------
        RuntimeUnavailable, BuildError
        """
        made = recording.new_table(runtime, self._version, self._config, self)
        return replace(made, version=self._version, machine=machine_of(self._session))

    def close(self) -> None:
        """End all processes; the next model starts others."""
        self._end_session()
        self._processes.close()
        self._convert = None

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def __enter__(self) -> EngineTimer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
