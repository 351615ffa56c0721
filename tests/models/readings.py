"""Evidence about a group made from explicit data: what layers read, row by row, and what they make of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shrinkc.api import Activity, Consumer, Evidence, Group, Windows


def reading(
    weight: np.ndarray, data: np.ndarray, position: Sequence[int] | None = None, windows: Windows | None = None, rows: int = 0
) -> Consumer:
    """A layer of weight ``(outputs, channels, taps)`` that reads rows ``(rows, channels, taps)``."""
    outputs, channels, taps = weight.shape
    flat = data.reshape(len(data), -1)
    own = np.arange(channels) if position is None else np.asarray(position, np.int64)
    activity = Activity(np.abs(data).mean((0, 2)), (data <= 0).mean((0, 2)))
    gram = flat.T @ flat / len(flat)
    return Consumer(
        "layer",
        weight.reshape(outputs, -1),
        flat.mean(0),
        gram,
        rows or len(flat),
        np.repeat(own, taps),
        taps,
        activity,
        windows,
    )


def group_of(width: int) -> Group:
    return Group("group", np.arange(width), (), np.zeros(width, np.int64), 1, True)


def evidence_of(*consumers: Consumer) -> Evidence:
    return Evidence({"group": consumers}, n_samples=1)


def contributions(weight: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Explicit ``Z``, shape ``(rows * outputs, channels)``."""
    return np.einsum("oct,nct->noc", weight, data).reshape(-1, weight.shape[1])


def drawn(channels: int, taps: int = 1, outputs: int = 5, rows: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights and rows of correlated channels that are never negative."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((outputs, channels, taps))
    common = random.standard_normal((rows, 3)) @ random.standard_normal((3, channels))
    return weight, np.maximum(common[:, :, None] + random.standard_normal((rows, channels, taps)), 0)
