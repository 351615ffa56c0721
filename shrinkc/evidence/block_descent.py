"""Refit of a layer too wide for one matrix of second moments, one block of its channels after the other.

Block coordinate descent: every block is fitted as a layer of its own, to what the targets ask for beyond what all other blocks
give by now.  Each such fit can only lower the error, and after some rounds it is that of the whole layer's refit; unlike with
block-diagonal moments, what blocks have to do with each other counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shrinkc.api import Fit, FloatArray, Layer, RepairedLayer
from shrinkc.evidence.blocks import blocks_of, columns_of
from shrinkc.evidence.moments import CrossMomentsOf
from shrinkc.evidence.rows import Rows
from shrinkc.evidence.sites import Site

ROUNDS = 2
"""How often every block is fitted."""


def fit_in_blocks(site: Site, rows: Rows, fit: Callable[[Layer, Rows], Fit]) -> tuple[Fit, RepairedLayer]:
    """Fit a layer block by block.

    Parameters
    ----------
    site : Site
    rows : Rows
        All rows of the layer.
    fit : callable
        Fits one layer; what it is given is a block.

    Returns
    -------
    Fit
        Of the whole layer.
    RepairedLayer
        Its errors, measured on the rows.
    """
    weight, bias = site.matrix(), site.bias()
    given = _through(rows.inputs, weight)
    before = _error(rows, given, bias)
    channels = np.full(site.inputs // site.groups, -1)  # nobody goes with anybody any more
    for _ in range(ROUNDS):
        for block in blocks_of(channels, site.taps):
            own = columns_of(block, site.taps)
            inputs = rows.inputs[:, :, own]
            others = given - _through(inputs, weight[:, :, own])
            part = rows.less(inputs, others)
            found = fit(_layer(site, weight[:, :, own], bias, part), part)
            if not (np.isfinite(found.weight).all() and np.isfinite(found.bias).all()):
                continue
            weight[:, :, own], bias = found.weight, found.bias
            given = others + _through(inputs, found.weight)
    return Fit(weight, bias), RepairedLayer(site.name, before, _error(rows, given, bias))


def _through(inputs: FloatArray, weight: FloatArray) -> FloatArray:
    outputs: FloatArray = np.matmul(inputs, weight.transpose(0, 2, 1).astype(inputs.dtype))
    return outputs


def _layer(site: Site, weight: FloatArray, bias: FloatArray, rows: Rows) -> Layer:
    moments = CrossMomentsOf()
    for part in rows.parts():
        moments.add(part.inputs, part.targets)
    return Layer(site.name, weight, bias, moments.result(), site.taps, site.intercept is not None)


def _error(rows: Rows, given: FloatArray, bias: FloatArray) -> float:
    """Squared error as a share of the variance of the targets, all outputs together."""
    error = np.square(rows.targets - given - bias[:, None].astype(given.dtype), dtype=np.float64).sum()
    variance = rows.targets.var(1, dtype=np.float64).sum() * rows.targets.shape[1]
    return float(error / (variance or 1.0))
