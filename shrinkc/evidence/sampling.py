"""Which output positions of a layer are looked at: all of them cost time and change nothing that can be seen."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from shrinkc.evidence.blocks import columns_together
from shrinkc.evidence.patches import Positions
from shrinkc.evidence.sites import Site

ROWS, ROWS_PER_COLUMN = 4096, 8
"""Rows that are enough to choose channels by: the larger of the two numbers."""

ROWS_TO_FIT, ROWS_PER_COLUMN_TO_FIT = 8192, 16
"""Rows that are enough to fit weights to: half of them cost ResNet-20 two tenths of a point with 70 % of its MACs gone."""

ROWS_BYTES, ROW_EXTRAS = 128 << 20, 4
"""Rows of one layer that may be held at once; beside its inputs a row has so many numbers an output."""


@dataclass(frozen=True)
class Sampling:
    """Which output positions of a layer are looked at.

    ``per_sample`` is how many of one sample, None for all of them.
    """

    seed: int
    per_sample: int | None

    def positions(self, site: Site, batch: int, available: int, samples: int) -> Positions | None:
        """Flat positions for one batch, None for all; the same for every run with one seed."""
        wanted = None if self.per_sample is None else self.per_sample * (1 if site.windows is not None else samples)
        if wanted is None or wanted >= available:
            return None
        generator = np.random.default_rng([self.seed, batch, zlib.crc32(site.name.encode())])
        return np.sort(generator.choice(available, wanted, replace=False))


def sampling_to_choose(site: Site, samples: int, seed: int) -> Sampling:
    """Enough rows for the columns of a layer, or of a block where there are too many, to choose channels by."""
    return Sampling(seed, math.ceil(max(ROWS, ROWS_PER_COLUMN * columns_together(site.columns)) / samples))


def sampling_to_fit(site: Site, samples: int, seed: int) -> Sampling:
    """Enough rows to fit the weight of a layer to."""
    return Sampling(seed, math.ceil(_rows_to_fit(site) / samples))


def sampling_to_hold(site: Site, samples: int, seed: int) -> Sampling:
    """Like :func:`sampling_to_fit`, with no more rows than can be held at once."""
    most = ROWS_BYTES // (4 * (site.inputs * site.taps + ROW_EXTRAS * site.outputs))
    return Sampling(seed, max(1, min(math.ceil(_rows_to_fit(site) / samples), most // samples)))


def _rows_to_fit(site: Site) -> int:
    return max(ROWS_TO_FIT, ROWS_PER_COLUMN_TO_FIT * columns_together(site.columns))
