"""Moments of what layers read or give, whichever is smaller, in double precision: errors of factors are small differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkc.api import Moments
from shrinkc.evidence.blocks import LARGEST_GRAM
from shrinkc.evidence.moments import MomentsOf
from shrinkc.evidence.patches import Positions, columns_in_parts, n_positions, rows
from shrinkc.evidence.sampling import ROWS_PER_COLUMN_TO_FIT, ROWS_TO_FIT, Sampling
from shrinkc.evidence.sites import Site
from shrinkc.evidence.walking import Walk
from shrinkc.stages import RECURRENT

Array = NDArray[Any]
Batches = Sequence[Mapping[str, Array]]

COLUMNS_IN_DOUBLE = 1024
"""Products of unrolled neighbourhoods with more columns are made in single precision: they take most of the time."""


@dataclass(frozen=True, eq=False)
class Response:
    """Moments of one layer's inputs, its outputs, or both."""

    inputs: Moments | None
    outputs: Moments | None


def response_sampling(site: Site, width: int, n_samples: int, seed: int) -> Sampling:
    """Sampling that keeps enough rows for moments of so many numbers."""
    return Sampling(seed, math.ceil(max(ROWS_TO_FIT, ROWS_PER_COLUMN_TO_FIT * width) / max(1, n_samples)))


def observable(site: Site, *, inputs: bool) -> bool:
    """Whether the moments of a layer's inputs (outputs) fit into memory."""
    size = site.inputs // site.groups * site.taps if inputs else site.outputs // site.groups
    return size <= LARGEST_GRAM


def responses(
    walk: Walk, sites: Sequence[Site], with_inputs: Mapping[str, bool], n_samples: int, seed: int
) -> dict[str, Response]:
    """Run a model once and sum up what its layers read and give.

    Parameters
    ----------
    walk : Walk
        Of the model, not begun; it must have been told that the layers' outputs, and the data of those looked at by their
        inputs, are needed (:func:`needed_values`).
    sites : sequence of Site
        In the order of the graph.
    with_inputs : mapping of layer name to bool
        Whose inputs are looked at, too.
    n_samples : int
    seed : int
        Of the sampled positions.
    """
    found: dict[str, Response] = {}
    for site in sites:
        walk.advance((walk.place(site.name) or 0) + 1)
        found[site.name] = _response(walk, site, with_inputs[site.name], n_samples, seed)
        for name in _needed(site):
            walk.release(name)
    return found


def needed_values(sites: Sequence[Site]) -> list[str]:
    """Values a walk has to keep for :func:`responses`."""
    return [name for site in sites for name in _needed(site)]


def _needed(site: Site) -> list[str]:
    return [site.name, site.data.name or ""]


def positions_of(site: Site, number: int, data: Array, sampling: Sampling) -> Positions | None:
    """Output positions of one batch that are looked at."""
    available = data.size if site.node.op_type == "Gather" else n_positions(site, data)
    return sampling.positions(site, number, available, len(data))


def _response(walk: Walk, site: Site, with_inputs: bool, n_samples: int, seed: int) -> Response:
    read, given = MomentsOf(), MomentsOf()
    width = site.inputs // site.groups * site.taps if with_inputs else site.outputs // site.groups
    is_single = site.taps > 1 and width > COLUMNS_IN_DOUBLE
    sampling = response_sampling(site, width, n_samples, seed)
    with_outputs = observable(site, inputs=False) and site.node.op_type not in RECURRENT
    for number in range(walk.n_batches):
        data = walk.value(site.data.name or "", number)
        positions = positions_of(site, number, data, sampling)
        if with_inputs:
            for part in columns_in_parts(site, data, positions):
                read.add(part if is_single else part.astype(np.float64))
        if with_outputs:
            given.add(rows(site, walk.value(site.name, number), positions).astype(np.float64))
    return Response(read.result() if with_inputs else None, given.result() if with_outputs else None)
