"""Measures what a latency table lacks: micro-models of single layers, each the least of several short blocks.

Time of the processor at one thread, time of the wall at several.  The least block is the one least disturbed, so a busy machine
costs patience, not truth; the load is written down all the same.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import helper

from shrinkc.api import RunConfig, RuntimeAdapter, Session
from shrinkc.latency import table as tables
from shrinkc.latency.layers import Layer, LayerSpec, micro_model, model_bytes
from shrinkc.latency.table import Points, Rates, Table, Widths, alike, block_of
from shrinkc.log import Progress
from shrinkc.report import facts

BLOCKS, BLOCK_S, MOST_RUNS = 7, 0.004, 200

BLOCK_BASE, BLOCK_SIZES, SAME_TIME, BLOCK_TRIES = 16, (16, 8, 4, 2), 1.08, 3
"""A block is the largest size for which one channel more than the base costs the same as a whole block more."""

COPIES, MANY_COPIES, SHORT_S = 3, 9, 5e-5
"""A model of one layer also converts its input and output and starts up; what further copies of the layer take does not.  Of
layers that take less than this there are more copies: a few microseconds would be lost in the noise of the rest."""

PROBE_SIZE, PROBE_WIDTH = 28, 256
PRODUCT_SIZE, COPY_ELEMENTS = 192, 1 << 18
FLOAT_BYTES = 4

FASTER, MORE_TRIES = 0.9, 2
"""A wider layer that takes less than this share of a narrower one's time is measured again, so often."""

Timer = Callable[[bytes, Mapping[str, np.ndarray]], float]
"""Seconds of one run of a model."""


def timer_of(runtime: RuntimeAdapter, config: RunConfig) -> Timer:
    """Timer of models that a runtime runs in this process."""

    def seconds(model: bytes, feed: Mapping[str, np.ndarray]) -> float:
        return least_seconds(runtime.load(model, config), feed, config.threads)

    return seconds


def least_seconds(session: Session, feed: Mapping[str, np.ndarray], threads: int, blocks: int = BLOCKS) -> float:
    """Seconds per run of the least of several blocks: CPU time of the process at one thread, else wall time."""
    clock = time.process_time if threads == 1 else time.perf_counter
    session.run(feed)
    started = time.perf_counter()
    session.run(feed)
    runs = int(np.clip(BLOCK_S / max(time.perf_counter() - started, 1e-9), 1, MOST_RUNS))
    return min(_block(session, feed, runs, clock) for _ in range(blocks))


def _block(session: Session, feed: Mapping[str, np.ndarray], runs: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(runs):
        session.run(feed)
    return (clock() - started) / runs


def new_table(runtime: str, version: str, config: RunConfig, timer: Timer) -> Table:
    """A table without layers: what is true of the machine and the runtime whatever the model."""
    return Table(runtime, version, config.precision, config.threads, facts.machine(), block_size(timer), rates(timer))


def rates(timer: Timer) -> Rates:
    """What a multiply-accumulate of a matrix product and a byte of a sum of two tensors take."""
    return Rates(_seconds_per_mac(timer), _seconds_per_byte(timer, timer(*_copy(16))))


def block_size(timer: Timer) -> int:
    """Channels that a convolution computes together, found by measuring where its time steps up."""
    spec = LayerSpec("Conv", (1, 0, PROBE_SIZE, PROBE_SIZE), (1, 1))

    def seconds(width: int) -> float:
        return min(_seconds(timer, spec, (PROBE_WIDTH, width)) for _ in range(BLOCK_TRIES))

    just_above = seconds(BLOCK_BASE + 1)
    return next((size for size in BLOCK_SIZES if seconds(BLOCK_BASE + size) <= SAME_TIME * just_above), 1)


def record_to(path: Path, table: Table, layers: Sequence[Layer], timer: Timer, progress: Progress, where: str) -> None:
    """Measure what the table lacks for some layers, and write it after each: whoever interrupts this loses one layer.

    Parameters
    ----------
    path : Path
        Of the table.
    table : Table
    layers : sequence of Layer
    timer : Timer
    progress : Progress
    where : str
        What they are timed on, for people.
    """
    lacking = [layer for layer in layers if table.missing(layer.spec, layer.widths)]
    if not lacking:
        return
    with progress.counting(f"timing layers on {where}") as tell:
        for done, layer in enumerate(lacking):
            tell(done / len(lacking), layer.node.name or layer.node.op_type)
            record(table, layer, timer)
            tables.save(table, path)


def record(table: Table, layer: Layer, timer: Timer) -> None:
    """Measure what the table lacks for a layer."""
    missing = table.missing(layer.spec, layer.widths)
    if missing:
        points: Points = table.layers.setdefault(layer.spec, {})
        points.update({widths: _seconds(timer, layer.spec, widths) for widths in missing})
        complete(table, layer.spec, timer)
        measure_again(table, layer.spec, missing, timer)
    table.load_average = max(table.load_average, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0)


def complete(table: Table, spec: LayerSpec, timer: Timer) -> None:
    """Measure the rest of the grid where two models had different widths of one layer."""
    points = table.layers[spec]
    axes = [sorted({point[axis] for point in points}) for axis in range(spec.n_widths)]
    if len(axes) == 2:
        for first in axes[0]:
            for second in axes[1]:
                if (first, second) not in points:
                    points[first, second] = _seconds(timer, spec, (first, second))


def measure_again(table: Table, spec: LayerSpec, new: Sequence[Widths], timer: Timer) -> None:
    """Measure new points of a layer again that contradict others, a few times, and take their medians."""
    points, block = table.layers[spec], block_of(spec, table.block)
    found = {widths: [points[widths]] for widths in new}
    for _ in range(MORE_TRIES):
        doubtful = {widths for part in alike(spec, points, block) for widths in contradictory(part)}
        for widths in sorted(doubtful & found.keys()):
            found[widths] += [_seconds(timer, spec, widths) for _ in range(2)]
            points[widths] = float(np.median(found[widths]))


def contradictory(points: Points) -> set[Widths]:
    """Pairs of neighbours of which the wider one is clearly faster: one of the two is wrong, and nobody knows which."""
    return {
        widths for narrow, wide in _neighbours(points) if points[wide] < FASTER * points[narrow] for widths in (narrow, wide)
    }


def _neighbours(points: Points) -> Iterator[tuple[Widths, Widths]]:
    """Points one apart along one width, with the others the same."""
    for axis in range(len(next(iter(points), ()))):
        ordered = sorted(points, key=lambda widths: (widths[:axis] + widths[axis + 1 :], widths[axis]))
        for narrow, wide in itertools.pairwise(ordered):
            if narrow[:axis] + narrow[axis + 1 :] == wide[:axis] + wide[axis + 1 :]:
                yield narrow, wide


def _seconds(timer: Timer, spec: LayerSpec, widths: Sequence[int]) -> float:
    """Seconds of one layer: of each further copy, as what surrounds a single layer is not there inside a model."""
    feed = {"x": np.random.default_rng(1).standard_normal(spec.input_shape(widths)).astype(np.float32)}
    alone = timer(micro_model(spec, widths), feed)

    def further(copies: int) -> float:
        return max((timer(micro_model(spec, widths, copies), feed) - alone) / (copies - 1), 0.0)

    found = further(COPIES)
    return found if found > SHORT_S else further(MANY_COPIES)


def _seconds_per_mac(timer: Timer) -> float:
    spec = LayerSpec("MatMul", (1, PRODUCT_SIZE, 0), has_bias=False)  # engines of phones want a batch axis
    return _seconds(timer, spec, (PRODUCT_SIZE, PRODUCT_SIZE)) / PRODUCT_SIZE**3


def _seconds_per_byte(timer: Timer, overhead: float) -> float:
    """Two tensors read, one written."""
    return max(timer(*_copy(COPY_ELEMENTS)) - overhead, 0.0) / (3 * FLOAT_BYTES * COPY_ELEMENTS)


def _copy(elements: int) -> tuple[bytes, dict[str, np.ndarray]]:
    feed = {name: np.ones((1, elements), np.float32) for name in ("a", "b")}
    return model_bytes([helper.make_node("Add", ["a", "b"], ["y"])], dict.fromkeys(feed, (1, elements)), []), feed
