"""One ranking over all groups: the lowest scores go, wherever they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shrinkc.api import FloatArray, Group

FLOOR = 0.1
"""Share of a group that always stays: an empty layer would cut the network in two."""


class GlobalRanking:
    """Removes the fraction ``pressure`` of all channels with the lowest scores; scores have mean 1 in every group.

    Li et al. compare within a layer only; ranking across layers needs scores on one scale, hence the mean.
    """

    name = "global"

    def widths(self, groups: Sequence[Group], scores: Mapping[str, FloatArray], pressure: float) -> dict[str, float]:
        """See :class:`shrinkc.api.Allocator`."""
        if not groups:
            return {}
        every = np.concatenate([scores[group.name] for group in groups])
        channels = np.concatenate([np.full(group.width, group.multiplicity) for group in groups])
        order = np.argsort(every, kind="stable")
        gone = np.cumsum(channels[order]) <= pressure * channels.sum() + 1e-9
        threshold = every[order[np.count_nonzero(gone) - 1]] if gone.any() else -np.inf
        return {
            group.name: max(float(np.count_nonzero(scores[group.name] > threshold)), FLOOR * group.width) for group in groups
        }
