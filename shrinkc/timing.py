"""Seconds of the layers of an opened model: measured here, recorded on a device, or estimated from its profile."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shrinkc import registry, shapes
from shrinkc.api import Engine, RunConfig, RuntimeAdapter
from shrinkc.engines import probe_of
from shrinkc.errors import RecipeError
from shrinkc.feeding import random_input
from shrinkc.latency import recording, roofline
from shrinkc.latency import table as tables
from shrinkc.latency.layers import Layer
from shrinkc.latency.model import Forecast, forecast, layers_of
from shrinkc.latency.stopwatch import WHOLE_BLOCKS, InProcess, OnEngine, Stopwatch
from shrinkc.latency.table import Table
from shrinkc.log import Progress, Silent
from shrinkc.opening import Opened
from shrinkc.report import facts
from shrinkc.target import Target

MEASURED, RECORDED, ESTIMATED = "measured", "recorded", "estimated"


@dataclass(frozen=True)
class Timed:
    """A forecast of latency, and what it rests on.

    Attributes
    ----------
    forecast : Forecast
    basis : str
        ``measured``, ``recorded`` or ``estimated``.
    detail : str
        For the report.
    extend : callable of sequence of Layer to sequence of Layer
        Makes further layers known to the forecast's times, and returns those that cannot be.
    stopwatch : Stopwatch or None
        What measured them, and can measure whole models; None where nothing was measured.
    """

    forecast: Forecast
    basis: str
    detail: str
    extend: Callable[[Sequence[Layer]], Sequence[Layer]] = lambda layers: ()
    stopwatch: Stopwatch[Any] | None = None


@dataclass(frozen=True)
class Sources:
    """Where tables come from.

    Attributes
    ----------
    table : Path or None
        A table recorded on a device.
    cache : Path
        Folder of tables measured here.
    """

    table: Path | None
    cache: Path


def cache_folder() -> Path:
    """Folder of measured tables, where the system keeps what can be made again."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "shrinkc" / "latency"


def timed(
    opened: Opened, target: Target, runtime: RuntimeAdapter, config: RunConfig, sources: Sources, progress: Progress
) -> Timed:
    """Forecast for a model on a target.

    Raises
    ------
    RecipeError
        The table lacks a layer, or nothing is known of the target.
    """
    if sources.table is not None:
        return _recorded(opened, sources.table)
    stopwatch = stopwatch_here(target, runtime, config)
    if stopwatch is not None:
        return _measured(opened, stopwatch, sources.cache, progress)
    return _by_roofline(opened, target, _estimate(target))


def estimated(opened: Opened, target: Target) -> Timed | None:
    """Forecast by the target's roofline; None where its profile has no figures for one."""
    with suppress(RecipeError):
        return _by_roofline(opened, target, roofline.of_target(target))
    return None


def _by_roofline(opened: Opened, target: Target, estimate: roofline.Roofline) -> Timed:
    detail = f"roofline of {target.name}: {estimate.basis}"
    return Timed(forecast(opened.analysis, estimate), ESTIMATED, detail)


def _estimate(target: Target) -> roofline.Roofline:
    """Roofline of a target whose runtime is not here; what is to be done if it has none depends on where it should be."""
    try:
        return roofline.of_target(target)
    except RecipeError as error:
        if not target.is_here:
            raise
        missing = probe_of(registry.built("runtimes", target.runtime))
        because = f"{target.runtime} is not here ({missing.reason}), and the profile has no figures to estimate from"
        raise RecipeError(error.message, where=error.where, because=because, hint=missing.hint) from error


def stopwatch_here(target: Target, runtime: RuntimeAdapter, config: RunConfig) -> Stopwatch[Any] | None:
    """Of the target's runtime; None if the target is another machine, or its engine is not to be had."""
    if target.is_here and target.runtime == runtime.name:
        return InProcess(runtime, config)
    engine = engine_here(target, runtime)
    return None if engine is None else OnEngine(engine, config)


def engine_here(target: Target, runtime: RuntimeAdapter) -> Engine | None:
    """The target's engine in a process of its own; None where it is elsewhere, missing, or the runtime of this process."""
    is_apart = target.is_here and target.runtime != runtime.name
    found = registry.built("runtimes", target.runtime) if is_apart else None
    return found if isinstance(found, Engine) and probe_of(found).is_available else None


def _recorded(opened: Opened, path: Path) -> Timed:
    table = tables.read(path)
    lacking = [layer.node.name or layer.node.op_type for layer in layers_of(opened.analysis) if _lacks(table, layer)]
    if lacking:
        raise RecipeError(
            "the latency table lacks layers of this model",
            where=str(path),
            because=f"{len(lacking)} of them, {lacking[0]} for one",
            hint="record it anew with this model: `shrinkc targets calibrate`",
        )
    where = f"{table.runtime} {table.version}, {table.machine.get('processor', 'unknown processor')}, {table.threads} thread(s)"
    return Timed(
        forecast(opened.analysis, table), RECORDED, where, lambda layers: [one for one in layers if _lacks(table, one)]
    )


def _lacks(table: Table, layer: Layer) -> bool:
    """Whether the table was not measured up to the widths of a layer."""
    points = table.layers.get(layer.spec, {})
    return not any(all(a >= b for a, b in zip(point, layer.widths, strict=True)) for point in points)


def _measured(opened: Opened, stopwatch: Stopwatch[Any], cache: Path, progress: Progress) -> Timed:
    table, path = _cached_table(opened, stopwatch, cache, progress)
    found = forecast(opened.analysis, table)
    whole = opened.analysis.keep_mask({})
    feed = made_up_feed(opened)
    with progress.stage("timing the original"), stopwatch.loaded(opened.model, feed) as session:
        seconds = stopwatch.seconds(session, feed, WHOLE_BLOCKS)
    factor = seconds / found.of(whole)
    where = f"{stopwatch.runtime.name} {table.version}, {table.threads} thread(s)"
    detail = f"layers timed one by one on {where}; their sum times {factor:.2f}"
    extend = partial(_recorded_too, table, stopwatch, path)
    return Timed(found.scaled(factor), MEASURED, detail, extend, stopwatch)


def _recorded_too(table: Table, stopwatch: Stopwatch[Any], path: Path, layers: Sequence[Layer]) -> Sequence[Layer]:
    """Measure further layers that are wider than what the table tells already, and store it again if it grew."""
    wider = [layer for layer in layers if _lacks(table, layer)]
    if wider:
        with stopwatch.layers() as timer:
            recording.record_to(path, table, wider, timer, Silent(), stopwatch.runtime.name)
    return ()


def _cached_table(opened: Opened, stopwatch: Stopwatch[Any], cache: Path, progress: Progress) -> tuple[Table, Path]:
    """Table with all layers of a model, from a folder as far as it is there, and stored there as it grows."""
    path = cache_file(cache, stopwatch.runtime, stopwatch.config)
    where = stopwatch.runtime.name
    with stopwatch.layers() as timer:
        if path.is_file():
            table = tables.read(path)
        else:
            with progress.stage(f"timing what is true of every model on {where}"):
                table = stopwatch.new_table(timer)
        recording.record_to(path, table, layers_of(opened.analysis), timer, progress, where)
    return table, path


def cache_file(cache: Path, runtime: RuntimeAdapter | Engine, config: RunConfig, what: str = "") -> Path:
    """Where times measured here are kept: of layers, or of something else."""
    name = "-".join(filter(None, (runtime.name, what, _key(runtime.name, runtime.probe().version, config))))
    return cache / f"{name}.json"


def _key(runtime: str, version: str, config: RunConfig) -> str:
    """Of everything that makes times differ."""
    about = (runtime, version, config.precision, config.threads, config.is_spinning, sorted(facts.machine().items()))
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


def made_up_feed(opened: Opened) -> dict[str, np.ndarray]:
    """Random inputs at the sizes the model was analysed at."""
    generator = np.random.default_rng(0)
    return {
        value.name or "": random_input(value, opened.shapes[value.name or ""], generator)
        for value in shapes.real_inputs(opened.model)
    }


def with_forecast(opened: Opened, found: Timed) -> Opened:
    """The same model, whose cost knows seconds."""
    return replace(opened, cost=opened.cost.with_latency(found.forecast.parts))
