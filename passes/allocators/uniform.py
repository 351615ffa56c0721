"""The same share of every group."""

from __future__ import annotations

from shrinkc.api import Problem


class Uniform:
    """Every group keeps the fraction ``1 - pressure`` of its channels."""

    name = "uniform"
    needs_evidence = False

    def widths(self, problem: Problem, pressure: float) -> dict[str, float]:
        """See :class:`shrinkc.api.Allocator`."""
        return {group.name: (1 - pressure) * group.width for group in problem.groups}
