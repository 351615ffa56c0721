"""Devices of one's own: a profile is kept, and the layers of models are timed where they will run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from shrinkc import recipe_files, registry, target
from shrinkc.analysis.groups import Analysis
from shrinkc.api import Engine, RunConfig, RuntimeAdapter
from shrinkc.errors import RecipeError, RuntimeUnavailable
from shrinkc.factorable import JointForm, Scope, candidates_in
from shrinkc.factored_latency import layers_of_chain
from shrinkc.files import write_text
from shrinkc.latency import recording
from shrinkc.latency import table as tables
from shrinkc.latency.engine_timing import EngineTimer
from shrinkc.latency.layers import Layer
from shrinkc.latency.model import layers_of
from shrinkc.latency.recording import Timer
from shrinkc.latency.table import Table
from shrinkc.log import Progress, Silent
from shrinkc.opening import loaded, open_model
from shrinkc.target import Target


def add(file: str | os.PathLike[str]) -> Path:
    """Keep a target's TOML file under its name among the user's own; returns where.

    Raises
    ------
    RecipeError
        The file is wrong, or there is a target of that name.
    """
    path = Path(file)
    found = target.load(str(path)) if path.suffix == ".toml" else None
    if found is None:
        raise RecipeError("a target is a .toml file", where=str(path))
    if found.name in target.names():
        raise RecipeError("there is a target of that name", where=found.name, hint="name the file otherwise")
    kept = target.user_folder() / path.name
    write_text(kept, path.read_text(encoding="utf-8"))
    target.forget()
    return kept


def calibrate(
    name: str,
    models: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    runtime: str | None = None,
    threads: int = 1,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    forms: Sequence[str] = (),
    progress: Progress | None = None,
) -> Table:
    """Time the layers of models on a target and write the table; one that is there already grows.

    Parameters
    ----------
    name : str
        Of the target.
    models : sequence of path
    output : path
        The table.
    runtime : str, optional
        Another runtime than the target's, such as one on a board.
    threads : int
    input_shapes : mapping, optional
        Sizes of free dimensions, of every model.
    forms : sequence of str
        Names of rewrites; what layers factorised so consist of is timed as well.
    progress : Progress, optional

    Raises
    ------
    RuntimeUnavailable
        The target is another machine and no runtime there was named, or its runtime is missing.
    RecipeError
        The table that is there belongs to another runtime or number of threads.
    """
    reporter, chosen, path = progress or Silent(), target.load(name), Path(output)
    config, used = RunConfig(threads=threads), runtime or chosen.runtime
    known = _fitting(tables.read(path), path, used, threads) if path.is_file() else None
    with _timer(chosen, runtime, config) as (timer, new_table):
        if known is None:
            with reporter.stage("timing what is true of every model"):
                known = new_table()
        for model in models:
            layers = _layers(Path(model), input_shapes, forms, reporter)
            recording.record_to(path, known, layers, timer, reporter, used)
        tables.save(known, path)
    return known


def _layers(
    model: Path, input_shapes: Mapping[str, tuple[int, ...]] | None, forms: Sequence[str], progress: Progress
) -> list[Layer]:
    with loaded(model, progress) as graph:
        recipe = replace(recipe_files.resolve(input_shapes=dict(input_shapes or {}) or None), optimize=False)
        analysis = open_model(model, recipe, None, graph, progress).analysis
        return [*layers_of(analysis), *_factor_layers(analysis, forms)]


def _factor_layers(analysis: Analysis, forms: Sequence[str]) -> list[Layer]:
    """Stages of every chain that some rewrites could make of a model's layers, each at its largest rank."""
    if not forms:
        return []
    built = [registry.built("rewrites", name) for name in forms]
    scope = Scope([form for form in built if not isinstance(form, JointForm)], registry.built("factorizations", "svd"))
    runtime = registry.load("runtimes", "onnxruntime-cpu")()
    found = candidates_in(analysis.model, analysis.shadow, scope, [], runtime).candidates
    return [layer for candidate in found for layer in layers_of_chain(candidate, analysis.shadow)]


@contextmanager
def _timer(chosen: Target, runtime: str | None, config: RunConfig) -> Iterator[tuple[Timer, Callable[[], Table]]]:
    """Timer of models on the target, and what makes an empty table."""
    if runtime is None and not chosen.is_here:
        raise RuntimeUnavailable(
            "the target is another machine",
            where=chosen.name,
            because=f"{chosen.runtime} runs there",
            hint="calibrate there and carry the table back, or name a runtime there: --runtime remote:...",
        )
    found = registry.built("runtimes", runtime or chosen.runtime)
    probe = found.probe()
    if not probe.is_available:
        raise RuntimeUnavailable("the runtime is not usable", where=chosen.name, because=probe.reason, hint=probe.hint)
    if runtime is None and isinstance(found, RuntimeAdapter):
        timer = recording.timer_of(found, config)
        yield timer, lambda: recording.new_table(chosen.runtime, probe.version, config, timer)
        return
    if not isinstance(found, Engine):
        raise RecipeError("the runtime cannot time layers", where=str(runtime), because="it has no convert and open")
    with EngineTimer(found, config) as apart:
        yield apart, lambda: apart.new_table(runtime or chosen.runtime)


def _fitting(found: Table, path: Path, runtime: str, threads: int) -> Table:
    if (found.runtime, found.threads) != (runtime, threads):
        raise RecipeError(
            "the table that is there belongs to something else",
            where=str(path),
            because=f"it is of {found.runtime} with {found.threads} thread(s)",
            hint="write another file",
        )
    return found
