"""Structured optimal brain surgeon as a criterion: the error a channel's removal adds, in greedy order.

Frantar, Alistarh. Optimal Brain Compression. NeurIPS 2022; Kurtic, Frantar, Alistarh. ZipLM. NeurIPS 2023.  The algorithm, and
where it differs, is in :mod:`shrinkc.evidence.elimination`.
"""

from __future__ import annotations

import numpy as np

from shrinkc.api import Evidence, FloatArray, Group, Weights
from shrinkc.evidence.curves import greedy_elimination, shown_errors
from shrinkc.evidence.ordering import Removals


class StructuredObs:
    """Error that the removal of each position adds to the group's consumers, as a share of their output's energy.

    Scores never fall along the greedy order, so the lowest scores are the first removals.  A group none of whose consumers
    could be looked at has scores of one.
    """

    name = "obs"
    needs_evidence = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        elimination = None if evidence is None else greedy_elimination(evidence, group)
        if evidence is None or elimination is None:
            return np.ones(group.width)
        return Removals(elimination.order, np.diff(shown_errors(evidence, group, elimination.errors))).scores()
