"""One ranking over all groups: the lowest scores go, wherever they are."""

from __future__ import annotations

import numpy as np

from shrinkc.api import FloatArray, Group, Problem

FLOOR = 0.1
"""Share of a group that always stays: an empty layer would cut the network in two."""


class GlobalRanking:
    """Removes the fraction ``pressure`` of all channels with the lowest scores.

    Li et al. compare within a layer only; ranking across layers needs scores on one scale, so those of a criterion that has
    none are divided by the mean of their group.
    """

    name = "global"
    needs_evidence = False

    def widths(self, problem: Problem, pressure: float) -> dict[str, float]:
        """See :class:`shrinkc.api.Allocator`."""
        if not problem.groups:
            return {}
        scores = {group.name: _on_one_scale(problem, group) for group in problem.groups}
        every = np.concatenate([scores[group.name] for group in problem.groups])
        channels = np.concatenate([np.full(group.width, group.multiplicity) for group in problem.groups])
        order = np.argsort(every, kind="stable")
        gone = np.cumsum(channels[order]) <= pressure * channels.sum() + 1e-9
        threshold = every[order[np.count_nonzero(gone) - 1]] if gone.any() else -np.inf
        return {
            group.name: max(float(np.count_nonzero(scores[group.name] > threshold)), FLOOR * group.width)
            for group in problem.groups
        }


def _on_one_scale(problem: Problem, group: Group) -> FloatArray:
    scores = problem.scores[group.name]
    mean = float(scores.mean())
    return scores if problem.is_comparable or mean <= 0 else scores / mean
