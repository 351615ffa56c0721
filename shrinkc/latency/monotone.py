"""Times of a layer that never fall as it gets wider: what measuring says beyond that is noise.

A layer of few microseconds is the difference of two measurements, and on a busy machine a wide layer comes out faster than a
narrow one now and then.  An allocator that believes it keeps channels where it should remove them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Points = Mapping[tuple[int, ...], float]

SWEEPS = 50
"""Turns over all axes; on grids of four by four widths the tenth changes nothing any more."""


def monotone(points: Points) -> dict[tuple[int, ...], float]:
    """The times nearest to those measured, by squares, that fall along no width.

    Parameters
    ----------
    points : mapping of widths to seconds
        A full grid.

    Notes
    -----
    Isotonic regression on a grid: that of one axis after the other, by Dykstra's projections (Dykstra, Robertson. An algorithm
    for isotonic regression for two or more independent variables. Annals of Statistics 10, 1982).
    """
    axes = [sorted(set(widths)) for widths in zip(*points, strict=True)]
    grid = np.array([points[widths] for widths in sorted(points)]).reshape([len(axis) for axis in axes])
    return dict(zip(sorted(points), _projected(grid).reshape(-1).tolist(), strict=True))


def _projected(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    removed = [np.zeros_like(grid) for _ in range(grid.ndim)]
    for _ in range(SWEEPS):
        for axis in range(grid.ndim):
            given = grid + removed[axis]
            grid = np.apply_along_axis(lambda line: isotonic_regression(line).x, axis, given)
            removed[axis] = given - grid
    for axis in range(grid.ndim):  # what the sweeps left over
        grid = np.maximum.accumulate(grid, axis)
    return grid
