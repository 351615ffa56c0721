"""Layers and whole models timed on one runtime: onnxruntime in this process, or any engine in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.api import Engine, EngineSession, RunConfig, RuntimeAdapter, Session
from shrinkc.latency import recording
from shrinkc.latency.engine_timing import EngineTimer, converted, least_of
from shrinkc.latency.probe import Arrays
from shrinkc.latency.recording import BLOCK_S, Timer
from shrinkc.latency.table import Table

PAIRS, LEAST_PAIRS, MOST_S = 150, 6, 5.0
"""Short blocks that two models take in turns: so many, or as many as fit into so many seconds, but not fewer than the least."""

WHOLE_BLOCKS = 50
"""Blocks of one model by itself."""

Loaded = TypeVar("Loaded")


class Stopwatch(Protocol[Loaded]):
    """Takes the time of models on one runtime of this machine.

    Attributes
    ----------
    runtime : RuntimeAdapter or Engine
    config : RunConfig
    """

    runtime: RuntimeAdapter | Engine
    config: RunConfig

    def layers(self) -> AbstractContextManager[Timer]:
        """Timer of models of one layer."""

    def new_table(self, timer: Timer) -> Table:
        """A table without layers, see :func:`shrinkc.latency.recording.new_table`."""

    def loaded(self, model: ir.Model, feed: Arrays) -> AbstractContextManager[Loaded]:
        """A whole model, loaded to be fed so.

        Raises
        ------
        RuntimeUnavailable, BuildError
        """

    def seconds(self, session: Loaded, feed: Arrays, blocks: int) -> float:
        """Of the run, or short block of runs, that was disturbed least."""


class InProcess:
    """Stopwatch of a runtime in this process.

    Parameters
    ----------
    runtime : RuntimeAdapter
    config : RunConfig
    """

    def __init__(self, runtime: RuntimeAdapter, config: RunConfig) -> None:
        self.runtime: RuntimeAdapter | Engine = runtime
        self.config = config
        self._adapter = runtime

    def layers(self) -> AbstractContextManager[Timer]:
        """See :class:`Stopwatch`."""
        return nullcontext(recording.timer_of(self._adapter, self.config))

    def new_table(self, timer: Timer) -> Table:
        """See :class:`Stopwatch`."""
        return recording.new_table(self._adapter.name, self._adapter.probe().version, self.config, timer)

    def loaded(self, model: ir.Model, feed: Arrays) -> AbstractContextManager[Session]:
        """See :class:`Stopwatch`."""
        return nullcontext(self._adapter.load(shrinkc_ir.loadable(model), self.config))

    def seconds(self, session: Session, feed: Arrays, blocks: int) -> float:
        """See :class:`Stopwatch`."""
        return recording.least_seconds(session, feed, self.config.threads, blocks)


class OnEngine:
    """Stopwatch of an engine in a process of its own.

    Parameters
    ----------
    engine : Engine
    config : RunConfig
    """

    def __init__(self, engine: Engine, config: RunConfig) -> None:
        self.runtime: RuntimeAdapter | Engine = engine
        self.config = config
        self._engine = engine

    def layers(self) -> AbstractContextManager[EngineTimer]:
        """See :class:`Stopwatch`."""
        return EngineTimer(self._engine, self.config)

    def new_table(self, timer: Timer) -> Table:
        """See :class:`Stopwatch`."""
        if not isinstance(timer, EngineTimer):
            raise TypeError("the timer is not this stopwatch's")
        return timer.new_table(self._engine.name)

    @contextmanager
    def loaded(self, model: ir.Model, feed: Arrays) -> Iterator[EngineSession]:
        """See :class:`Stopwatch`."""
        with tempfile.TemporaryDirectory(prefix="shrinkc-") as folder:
            path = Path(folder) / "model.onnx"
            shrinkc_ir.save(model.clone(), path)
            artifact = converted(self._engine.convert, path, Path(folder) / "built", feed, self.config)
            with self._engine.open(artifact, self.config) as session:
                yield session

    def seconds(self, session: EngineSession, feed: Arrays, blocks: int) -> float:
        """See :class:`Stopwatch`."""
        return least_of(session, feed, blocks * BLOCK_S, self.config)


def share(stopwatch: Stopwatch[Loaded], before: Loaded, after: Loaded, feed: Arrays) -> float:
    """Time of one model as a share of another's: the median over pairs of blocks, one right after the other.

    A processor whose speed changes by a fifth every few milliseconds, as that of a shared host does, is as fast for both blocks
    of a pair more often than not; the least blocks of the two may be of different speeds.
    """
    ratios: list[float] = []
    started = time.perf_counter()
    while len(ratios) < PAIRS and (len(ratios) < LEAST_PAIRS or time.perf_counter() - started < MOST_S):
        seconds = [stopwatch.seconds(session, feed, 1) for session in (before, after)]
        ratios.append(seconds[1] / seconds[0])
    return float(np.median(ratios))
