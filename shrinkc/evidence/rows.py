"""What one layer reads and should give, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from shrinkc.api import FloatArray

PART_BYTES = 32 << 20
"""Inputs of the rows that are worked on together."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What one layer reads and should give, row by row.

    Attributes
    ----------
    inputs : ndarray of shape (groups, rows, columns)
    targets : ndarray of shape (groups, rows, outputs)
    cut_below, cut_above : ndarray of shape (groups, rows, outputs) or None
        Outputs below (above) these are all the same to the network: a rectifier follows.
    """

    inputs: FloatArray
    targets: FloatArray
    cut_below: FloatArray | None = None
    cut_above: FloatArray | None = None

    def parts(self) -> Iterator[Rows]:
        """The same rows, so many at a time that working on them takes little memory."""
        step = max(1, PART_BYTES // max(1, self.inputs[:, :1].nbytes))
        for start in range(0, self.inputs.shape[1], step):
            arrays = [getattr(self, field.name) for field in fields(Rows)]
            part: list[Any] = [None if array is None else array[:, start : start + step] for array in arrays]
            yield Rows(*part)

    def less(self, inputs: FloatArray, others: FloatArray) -> Rows:
        """What some columns should give beside ``others``, which all other columns give."""
        below, above = (None if edge is None else edge - others for edge in (self.cut_below, self.cut_above))
        return Rows(inputs, self.targets - others, below, above)


def joined(batches: Iterator[Rows], count: int) -> Rows:
    """Rows of ``count`` batches in one, none longer than the first; no batch is in memory twice."""
    first = next(batches)
    whole: dict[str, Any] = {field.name: _room(getattr(first, field.name), count) for field in fields(Rows)}
    filled = _fill(whole, first, 0)
    for batch in batches:
        filled = _fill(whole, batch, filled)
    kept: dict[str, Any] = {name: None if array is None else array[:, :filled] for name, array in whole.items()}
    return Rows(**kept)


def _room(array: Any, count: int) -> Any:
    return None if array is None else np.empty((array.shape[0], array.shape[1] * count, array.shape[2]), array.dtype)


def _fill(whole: dict[str, Any], batch: Rows, filled: int) -> int:
    end: int = filled + batch.inputs.shape[1]
    for name, array in whole.items():
        if array is not None:
            array[:, filled:end] = getattr(batch, name)
    return end
