"""A latency table: seconds of layers at a grid of widths, measured on one machine with one runtime."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shrinkc.errors import RecipeError
from shrinkc.files import write_text
from shrinkc.latency.layers import CONVOLUTIONS, LayerSpec
from shrinkc.latency.monotone import monotone

SCHEMA = "shrinkc.latency-table/1"

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Widths of the grid, as shares of the original's."""

QUARTERS = 4
"""Into how many parts a block is divided where a layer is narrower."""

Widths = tuple[int, ...]
Points = dict[Widths, float]


@dataclass(frozen=True)
class Rates:
    """What work costs that no layer of the table stands for, in seconds."""

    per_mac: float
    per_byte: float


@dataclass
class Table:
    """Seconds of layers.  What was measured is kept as it is; what is told of it never falls as a layer gets wider.

    Attributes
    ----------
    runtime, version, precision : str
    threads : int
    machine : mapping
        Facts of where it was measured; see :func:`shrinkc.report.facts.machine`.
    block : int
        Channels that cost as much as one: a width above it is rounded up to a multiple of it.
    rates : Rates
    layers : dict of LayerSpec to dict of widths to seconds
        Every layer's widths form a grid.
    load_average : float
        Largest seen while measuring.
    """

    runtime: str
    version: str
    precision: str
    threads: int
    machine: Mapping[str, Any]
    block: int
    rates: Rates
    layers: dict[LayerSpec, Points] = field(default_factory=dict)
    load_average: float = 0.0
    _smoothed: dict[object, Points] = field(default_factory=dict, repr=False, compare=False)

    def missing(self, spec: LayerSpec, widths: Widths) -> list[Widths]:
        """Grid points that are needed for widths up to ``widths`` and not there yet."""
        known = self.layers.get(spec, {})
        return [point for point in grid(spec, widths, self.block) if point not in known]

    def seconds(self, spec: LayerSpec, widths: Widths) -> float:
        """Time of a layer at any widths up to those of its grid, by interpolation along every width.

        Raises
        ------
        KeyError
            The layer is not in the table.
        """
        if not all(widths):
            return 0.0
        block, points = block_of(spec, self.block), self.layers[spec]
        whole, apart = alike(spec, points, block)
        paid = tuple(rounded_up(width, block) for width in widths)
        if spec.is_depthwise and widths[0] % block and apart:
            return self._smooth(spec, apart, widths)
        if not spec.is_depthwise and min(widths) < block:
            return _at(points, paid)
        return self._smooth(spec, whole or points, paid)

    def _smooth(self, spec: LayerSpec, points: Points, widths: Widths) -> float:
        return _at(self._monotone(spec, points), widths)

    def _monotone(self, spec: LayerSpec, points: Points) -> Points:
        """Points that fall along no width, as far as they are a full grid; worked out once for the same measurements."""
        axes = [{point[axis] for point in points} for axis in range(spec.n_widths)]
        if math.prod(map(len, axes)) != len(points):
            return points
        key = (spec, tuple(points.items()))
        if key not in self._smoothed:
            self._smoothed[key] = monotone(points)
        return self._smoothed[key]

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        return {
            "schema": SCHEMA,
            "runtime": self.runtime,
            "version": self.version,
            "precision": self.precision,
            "threads": self.threads,
            "machine": dict(self.machine),
            "block": self.block,
            "seconds_per_mac": self.rates.per_mac,
            "seconds_per_byte": self.rates.per_byte,
            "load_average": self.load_average,
            "layers": [
                {**spec.to_json(), "points": [[list(widths), seconds] for widths, seconds in sorted(points.items())]}
                for spec, points in self.layers.items()
            ],
        }


def alike(spec: LayerSpec, points: Points, block: int) -> tuple[Points, Points]:
    """Points in whole blocks, and the others, for which runtimes take other kernels: one says nothing of the other.

    The others are depthwise convolutions between blocks, and layers that read or give less than one.
    """

    def is_apart(widths: Widths) -> bool:
        return widths[0] % block > 0 if spec.is_depthwise else min(widths) < block

    apart = {widths: seconds for widths, seconds in points.items() if is_apart(widths)}
    return {widths: seconds for widths, seconds in points.items() if widths not in apart}, apart


def rounded_up(width: int, block: int) -> int:
    """The next multiple of a block; widths below one are left alone, as they are measured by themselves."""
    return width if width < block else multiple(width, block)


def multiple(width: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-width // step) * step


def grid(spec: LayerSpec, widths: Widths, block: int) -> list[Widths]:
    """Widths at which a layer is measured: shares of the original's, in whole blocks, or in quarters where they are below one.

    A depthwise convolution is measured between blocks as well: where widths do not fit, runtimes take another kernel, and a
    channel more can be faster.
    """
    step = max(block_of(spec, block), spec.groups)
    finest = step if spec.groups > 1 else max(1, step // QUARTERS)
    axes = [_axis(width, step, finest) for width in widths]
    if spec.is_depthwise and step > 1:
        axes = [sorted({*axes[0], *(width - step // 2 for width in axes[0] if width > step // 2)})]
    return list(itertools.product(*axes))


def block_of(spec: LayerSpec, block: int) -> int:
    """Channels that a layer computes together: a block for convolutions of one group or of all, else one."""
    return block if spec.op_type in CONVOLUTIONS and spec.groups <= 1 else 1


def _axis(width: int, step: int, finest: int) -> list[int]:
    """Shares of a width in whole steps, or below one step in the finest ones, and one step; never beyond the last step."""
    shares = {int(np.ceil(share * width)) for share in SHARES} | {min(step, width)}
    return sorted({multiple(share, step) if share > step else min(width, multiple(share, finest)) for share in shares})


def _at(points: Points, widths: Widths) -> float:
    """Seconds at any widths, from points that form a grid."""
    axes = [sorted(set(axis)) for axis in zip(*points, strict=True)]
    return _interpolated(points, axes, widths)


def _interpolated(points: Points, axes: Sequence[Sequence[int]], widths: Sequence[int]) -> float:
    """Multilinear between grid points; below the first and above the last the nearest edge goes on straight."""
    total = 0.0
    corners = [_neighbours(axis, width) for axis, width in zip(axes, widths, strict=True)]
    for chosen in itertools.product(*corners):
        weight = float(np.prod([share for _, share in chosen]))
        total += weight * points[tuple(width for width, _ in chosen)]
    return max(total, 0.0)


def _neighbours(axis: Sequence[int], width: int) -> list[tuple[int, float]]:
    """The two grid widths about a width, each with its share."""
    if len(axis) == 1 or width <= axis[0]:
        return [(axis[0], 1.0)]
    right = min(int(np.searchsorted(axis, width)), len(axis) - 1)
    low, high = axis[right - 1], axis[right]
    share = (width - low) / (high - low)
    return [(low, 1 - share), (high, share)]


def save(table: Table, path: Path) -> None:
    """Write a table as JSON."""
    write_text(path, json.dumps(table.to_json(), indent=1) + "\n")


def read(path: Path) -> Table:
    """Read a table.

    Raises
    ------
    RecipeError
        The file cannot be read, or is no latency table.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return _from_json(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError("a latency table cannot be read", where=str(path), because=str(error)) from error


def _from_json(data: dict[str, Any]) -> Table:
    if data["schema"] != SCHEMA:
        raise ValueError(f"its schema is {data['schema']}, not {SCHEMA}")
    layers = {LayerSpec.from_json(entry): _points(entry["points"]) for entry in data["layers"]}
    return Table(
        data["runtime"],
        data["version"],
        data["precision"],
        data["threads"],
        data["machine"],
        data["block"],
        Rates(data["seconds_per_mac"], data["seconds_per_byte"]),
        layers,
        data["load_average"],
    )


def _points(rows: Iterable[tuple[list[int], float]]) -> Points:
    return {tuple(widths): float(seconds) for widths, seconds in rows}
