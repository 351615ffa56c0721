"""Cost under one choice of kept classes after the other: only what changed since the last one is counted anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shrinkc.analysis.cost import Part
from shrinkc.analysis.groups import BoolArray
from shrinkc.analysis.labels import Labels


class RunningCost:
    """One quantity of a graph, as the sum of its parts.

    Parameters
    ----------
    parts : sequence of Part
        See :meth:`shrinkc.analysis.cost.CostModel.parts`.
    n_classes : int
    """

    def __init__(self, parts: Sequence[Part], n_classes: int) -> None:
        self._parts = parts
        self._bundle, self._readers = _bundles(parts, n_classes)
        self._seen = np.ones(n_classes + 1, bool)
        self._amounts = np.array([part.under(self._seen) for part in parts], float)

    def of(self, is_kept: BoolArray) -> float:
        """The quantity when the classes with ``is_kept`` false are gone; shape ``(n_classes + 1,)``."""
        changed = np.flatnonzero(is_kept != self._seen)
        for part in {part for bundle in np.unique(self._bundle[changed]).tolist() for part in self._readers[bundle]}:
            self._amounts[part] = self._parts[part].under(is_kept)
        self._seen = is_kept.copy()
        return float(self._amounts.sum())


def _bundles(parts: Sequence[Part], n_classes: int) -> tuple[Labels, list[tuple[int, ...]]]:
    """Bundle of every class (classes of one bundle appear in the same parts), and the parts of every bundle."""
    readers: list[list[int]] = [[] for _ in range(n_classes + 1)]
    for number, part in enumerate(parts):
        for index in sorted({int(index) for classes in part.classes for index in np.unique(classes)}):
            readers[index].append(number)
    numbers: dict[tuple[int, ...], int] = {}
    bundle = [numbers.setdefault(tuple(read_by), len(numbers)) for read_by in readers]
    return np.asarray(bundle, np.int64), list(numbers)
