"""Profiles: the kernels of a runtime, timed fairly, mapped back to the layers of the model and held against a roofline."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import recipe_files, registry, target
from shrinkc.api import ConvertConfig, Effective, Engine, EngineSession, LayerTime, Measurement, RunConfig
from shrinkc.engines import THIS_MACHINE
from shrinkc.errors import BuildError, RecipeError, RuntimeUnavailable
from shrinkc.latency import recording, roofline
from shrinkc.latency.engine_timing import cpu_threads, machine_of
from shrinkc.latency.fusions import sources_of
from shrinkc.latency.roofline import ITEM_BYTES, Roofline
from shrinkc.log import Progress, Silent
from shrinkc.opening import Opened, loaded, open_model
from shrinkc.report import facts
from shrinkc.report.profile import CONTENDED, INCONCLUSIVE, OK, LayerRow, ModelProfile, Profile
from shrinkc.shapes import Shadow
from shrinkc.target import Target
from shrinkc.timing import made_up_feed

ROUNDS, BLOCK_S, PROFILED_RUNS = 5, 0.2, 10

MOST_DRIFT, MOST_SPREAD = 0.15, 0.3
"""Of blocks of runs of one model; beyond either the machine was not steady enough to tell."""

HOST_RUNTIME = "onnxruntime-cpu"

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class _Loaded:
    """A model on the runtime, and what was measured so far."""

    opened: Opened
    session: EngineSession
    feed: Feed
    blocks: list[Measurement]
    kernels: list[Sequence[LayerTime]]


def profile(
    model: str | os.PathLike[str],
    *,
    compare: str | os.PathLike[str] | None = None,
    target_name: str = "cpu",
    runtime: str | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Profile:
    """Time every kernel of a model, or of two in turns.

    Parameters
    ----------
    model : path
    compare : path, optional
        A second model, measured in alternating blocks with the first.
    target_name : str
        Whose runtime and roofline are used.
    runtime : str, optional
        Another runtime than the target's.
    input_shapes : mapping, optional
        Sizes of free dimensions.
    threads : int
    progress : Progress, optional

    Raises
    ------
    RuntimeUnavailable
        The target's runtime is not here, or the target is another machine.
    BuildError
        The runtime refuses a model, or tells no times of layers.
    """
    reporter, chosen = progress or Silent(), target.load(target_name)
    engine = _engine(chosen, runtime)
    config = RunConfig(threads=threads, precision="float32")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkc-profile-")))
        paths = [Path(path) for path in (model, compare) if path is not None]
        models = [
            _load(path, engine, config, folder / str(number), dict(input_shapes or {}), stack, reporter)
            for number, path in enumerate(paths)
        ]
        with reporter.stage("measuring"):
            _measure(models)
        effective = models[0].session.effective()
        line = roofline_for(chosen, effective, runtime is not None, config)
        machine = machine_of(models[0].session)
        profiles = tuple(_profile_of(one, line) for one in models)
    blocks = [block for one in models for block in one.blocks]
    outcome, reason = judged(profiles, blocks)
    batch = next((int(array.shape[0]) for array in models[0].feed.values() if array.ndim), 1)
    return Profile(
        chosen.name,
        engine.name,
        effective.version,
        effective.provider,
        threads,
        batch,
        profiles,
        outcome,
        reason,
        max(block.load_average for block in blocks),
        line.basis,
        machine,
        facts.versions(),
    )


def _engine(chosen: Target, runtime: str | None) -> Engine:
    if runtime is None and not chosen.is_here:
        raise RuntimeUnavailable(
            "the target is another machine",
            where=f"--target {chosen.name}",
            because=f"{chosen.runtime} runs there",
            hint="profile there, or name a runtime of this machine with --runtime",
        )
    engine = registry.built("runtimes", runtime or chosen.runtime)
    if not isinstance(engine, Engine):
        raise RecipeError("the runtime cannot be profiled", where=str(runtime), because="it has no convert and open")
    return engine


def _load(
    path: Path,
    engine: Engine,
    config: RunConfig,
    folder: Path,
    given: dict[str, tuple[int, ...]],
    stack: ExitStack,
    progress: Progress,
) -> _Loaded:
    model = stack.enter_context(loaded(path, progress))
    recipe = replace(recipe_files.resolve(input_shapes=given or None), optimize=False)
    opened = open_model(path, recipe, None, model, progress)
    artifact = engine.convert(path, folder, ConvertConfig(config.precision, opened.shapes))
    session = stack.enter_context(engine.open(artifact, config))
    return _Loaded(opened, session, made_up_feed(opened), [], [])


def _measure(models: Sequence[_Loaded]) -> None:
    """Blocks of runs and of profiled runs, the models in turns, ending where it began."""
    for one in models:
        one.session.bench(one.feed, seconds=BLOCK_S)
    for number in range(ROUNDS + 1):
        for one in models:
            one.blocks.append(one.session.bench(one.feed, seconds=BLOCK_S))
            if number < ROUNDS:
                one.kernels.append(_kernels(one))


def _kernels(one: _Loaded) -> Sequence[LayerTime]:
    found = one.session.profile(one.feed, runs=PROFILED_RUNS)
    if not found:
        raise BuildError("the runtime does not tell times of layers", where=one.session.effective().runtime)
    return found


def _profile_of(one: _Loaded, line: Roofline) -> ModelProfile:
    kernels = least(one.kernels)
    sources = sources_of(one.opened.model, one.opened.analysis.shadow, kernels)
    macs = {work.node: work.macs for work in one.opened.analysis.flow.work}
    total = sum(kernel.time_s for kernel in kernels) or 1.0
    rows = tuple(
        _row(kernel, nodes, macs, one.opened.analysis.shadow, line, total)
        for kernel, nodes in zip(kernels, sources, strict=True)
    )
    medians = [float(np.median(block.wall_s)) for block in one.blocks]
    cpu = float(np.median([np.median(block.cpu_s) for block in one.blocks]))
    return ModelProfile(
        one.opened.path.name,
        one.opened.sha256,
        rows,
        float(np.median(medians)),
        cpu,
        medians[-1] / medians[0] - 1,
        max(medians) / min(medians) - 1,
        max(block.peak_memory_bytes for block in one.blocks),
    )


def least(rounds: Sequence[Sequence[LayerTime]]) -> list[LayerTime]:
    """Every kernel at the round that was disturbed least; kernels of one name keep their order."""
    first = rounds[0]
    times = [[kernel.time_s for kernel in found] for found in rounds if len(found) == len(first)]
    return [replace(kernel, time_s=min(column)) for kernel, column in zip(first, zip(*times, strict=True), strict=True)]


def _row(
    kernel: LayerTime,
    nodes: Sequence[ir.Node],
    macs: Mapping[ir.Node, int],
    shadow: Shadow,
    line: Roofline,
    total: float,
) -> LayerRow:
    work, traffic = sum(macs.get(node, 0) for node in nodes), traffic_bytes(nodes, shadow)
    names = tuple(node.name or node.op_type for node in nodes)
    # A layer goes by its work, so that it keeps its name where fewer nodes were fused into it.
    main = next((node.name or node.op_type for node in nodes if node in macs), names[0] if names else kernel.name)
    least_s = line.least(work, traffic) if nodes else 0.0
    share = kernel.time_s / total
    return LayerRow(main, kernel.name, kernel.op_type, names, kernel.time_s, share, work, traffic, least_s)


def traffic_bytes(nodes: Sequence[ir.Node], shadow: Shadow) -> int:
    """Bytes of what nodes read from outside and of what they write for outside."""
    inside = set(nodes)
    values = {value for node in nodes for value in node.inputs if value is not None and value.producer() not in inside}
    for node in nodes:
        for value in node.outputs:
            if value.is_graph_output() or any(usage.node not in inside for usage in value.uses()):
                values.add(value)
    return sum(_bytes(value, shadow) for value in values)


def _bytes(value: ir.Value, shadow: Shadow) -> int:
    fact = shadow[value]
    if fact.shape is None:
        return 0
    return int(np.prod(fact.shape, dtype=np.int64)) * (fact.dtype.itemsize if fact.dtype is not None else 4)  # type: ignore[return-value]


def roofline_for(chosen: Target, effective: Effective, is_named: bool, config: RunConfig) -> Roofline:
    """From the target's profile, where it has figures; else from a product and a sum timed here on one thread.

    A runtime that was named is no part of the target, if it runs on this processor; what runs elsewhere is judged by the
    target's figures or not at all.
    """
    is_here = effective.place == THIS_MACHINE and cpu_threads(effective.provider, 1) > 0
    if not (is_here and is_named):
        with suppress(RecipeError):
            return roofline.of_target(chosen)
    if not is_here:
        return Roofline(math.inf, math.inf, basis=f"not known, the profile of {chosen.name} has no figures of a device")
    timer = recording.timer_of(registry.load("runtimes", HOST_RUNTIME)(), RunConfig())
    rates = recording.rates(timer)
    return Roofline(
        config.threads / max(rates.per_mac, 1e-15),
        1 / max(rates.per_byte, 1e-15),
        ITEM_BYTES["float32"],
        basis=f"measured here on one thread: {1 / rates.per_mac / 1e9:.1f} GMAC/s of a matrix product, times "
        f"{config.threads} thread(s); {1 / rates.per_byte / 1e9:.1f} GB/s of a sum of two tensors",
    )


def judged(profiles: Sequence[ModelProfile], blocks: Sequence[Measurement]) -> tuple[str, str]:
    """Whether a measurement can be believed, and why not."""
    if any(block.is_contended for block in blocks):
        load = max(block.load_average for block in blocks)
        return CONTENDED, f"wall and CPU time disagree, others had the processor (load average {load:.1f})"
    for one in profiles:
        if abs(one.drift) > MOST_DRIFT:
            return INCONCLUSIVE, f"{one.model}: the last block took {one.drift:+.0%} of the first"
        if one.spread > MOST_SPREAD:
            return INCONCLUSIVE, f"{one.model}: blocks differ by {one.spread:.0%}"
    return OK, ""
