"""The same share of every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shrinkc.api import FloatArray, Group


class Uniform:
    """Every group keeps the fraction ``1 - pressure`` of its channels."""

    name = "uniform"

    def widths(self, groups: Sequence[Group], scores: Mapping[str, FloatArray], pressure: float) -> dict[str, float]:
        """See :class:`shrinkc.api.Allocator`."""
        return {group.name: (1 - pressure) * group.width for group in groups}
