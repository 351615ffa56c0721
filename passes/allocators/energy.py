"""The same share of the energy of every group, or of every layer's outputs."""

from __future__ import annotations

import numpy as np

from shrinkc.api import FloatArray, Problem


class Energy:
    """Every group keeps as few positions as hold its error below ``pressure``, a share of what losing all of them costs.

    The usual rule for ranks: the smallest one that keeps a given share of the squared singular values.
    """

    name = "energy"
    needs_evidence = True

    def widths(self, problem: Problem, pressure: float) -> dict[str, float]:
        """See :class:`shrinkc.api.Allocator`."""
        return {group.name: float(_least(problem.errors(group), pressure)) for group in problem.groups}


def _least(errors: FloatArray, share: float) -> int:
    """Least width whose error is at most a share of the largest one."""
    return int(np.argmax(errors <= share * errors[0] + 1e-15))
