"""Closed forms of one layer's repair, from moments alone.

With inputs ``x``, targets ``y``, weight ``M`` and bias ``b``, all means over the rows::

    error(M, b) = E|y - M x - b|^2
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from shrinkc.api import Fit, FloatArray, Layer

DAMPING, DAMPING_PER_COLUMN = 1e-5, 0.1
"""Ridge, in units of the mean variance: a floor, and what is added per column and row (fewer rows say less)."""

ROUNDING = 1e-9
"""Share of the mean second moment that a covariance is not exact to, at most; matters for inputs that never vary."""

SCALE_DAMPING = 1e-6
"""Ridge of scales towards one, in units of the mean energy of a channel's contribution."""


def relative_error(layer: Layer, weight: FloatArray, bias: FloatArray) -> float:
    """``error(M, b)`` as a share of the variance of the targets, all outputs together."""
    moments = layer.moments
    through = np.einsum("goc,gcd,god->", weight, moments.inputs.gram, weight, optimize=True)
    with_mean = np.einsum("goc,gc->go", weight, moments.inputs.mean)
    error = (
        moments.square.sum()
        - 2 * (weight * moments.cross).sum()
        + through
        + (bias * (bias + 2 * with_mean - 2 * moments.mean)).sum()
    )
    variance = (moments.square - moments.mean**2).sum()
    return max(0.0, float(error)) / (float(variance) or 1.0)


def ridge_of(matrix: FloatArray, rows: int) -> float:
    """Ridge for a second moment of ``rows`` rows, an absolute number."""
    size = len(matrix)
    scale = max(0.0, float(np.trace(matrix))) / size or 1.0
    return scale * (DAMPING + DAMPING_PER_COLUMN * size / rows)


def solve_towards(prior: FloatArray, cross: FloatArray, gram: FloatArray, ridge: float) -> FloatArray:
    """``argmin_M E|y - M x|^2 + ridge |M - prior|^2``, for one group: ``(C + ridge P)(H + ridge I)^-1``.

    Rounding in the moments can outweigh a small ridge; it is raised until the sum is positive definite.
    """
    damped = np.array(gram, np.float64, order="F")
    damped[np.diag_indices(len(damped))] += ridge
    try:
        solved: FloatArray = linalg.solve(damped, (cross + ridge * prior).T, assume_a="pos", overwrite_a=True).T
    except linalg.LinAlgError:
        return solve_towards(prior, cross, gram, 10 * ridge)
    return solved


def scale(layer: Layer) -> Fit:
    """One factor per input channel, shared by the outputs of its group, that gives the targets best; the bias stays.

    With ``z_c = M_c x_c`` what channel ``c`` contributes, ``argmin_w E|y - b - sum_c w_c z_c|^2``: the Gram matrix of the
    contributions is ``M^T M * H`` summed over the taps of either channel.  Channels that contribute nothing keep factor one.
    """
    groups = zip(
        layer.weight, layer.bias, layer.moments.cross, layer.moments.inputs.mean, layer.moments.inputs.gram, strict=True
    )
    factors = [_factors(weight, cross - np.outer(bias, mean), gram, layer.taps) for weight, bias, cross, mean, gram in groups]
    return Fit(layer.weight * np.repeat(np.stack(factors), layer.taps, axis=1)[:, None], layer.bias)


def _factors(weight: FloatArray, cross: FloatArray, gram: FloatArray, taps: int) -> FloatArray:
    channels = weight.shape[1] // taps
    contributions = (weight.T @ weight * gram).reshape(channels, taps, channels, taps).sum((1, 3))
    wanted = (weight * cross).sum(0).reshape(channels, taps).sum(1)
    energies = np.diag(contributions)
    alive = energies > 0
    factors = np.ones(channels)
    if alive.any():
        ridge = SCALE_DAMPING * float(energies.mean())
        inner = contributions[np.ix_(alive, alive)]
        factors[alive] = solve_towards(np.ones((1, len(inner))), wanted[None, alive], inner, ridge)[0]
    return factors


def refit(layer: Layer) -> Fit:
    """Weights that give the targets best, towards the ones there were; the bias stays."""
    moments = layer.moments
    targets = moments.cross - layer.bias[:, :, None] * moments.inputs.mean[:, None, :]
    return Fit(_solved(layer, targets, moments.inputs.gram), layer.bias)


def affine_refit(layer: Layer) -> Fit:
    """Weights and bias that give the targets best; weights alone where there is no place for a bias."""
    if not layer.can_shift:
        return refit(layer)
    moments = layer.moments
    cross = moments.cross - moments.mean[:, :, None] * moments.inputs.mean[:, None, :]
    weight = _solved(layer, cross, moments.inputs.covariance())
    return Fit(weight, moments.mean - np.einsum("goc,gc->go", weight, moments.inputs.mean))


def _solved(layer: Layer, cross: FloatArray, gram: FloatArray) -> FloatArray:
    inputs = layer.moments.inputs
    floors = ROUNDING * np.einsum("gcc->g", inputs.gram) / inputs.gram.shape[1]
    groups = zip(layer.weight, cross, gram, floors, strict=True)
    return np.stack(
        [solve_towards(prior, own, second, floor + ridge_of(second, inputs.rows)) for prior, own, second, floor in groups]
    )
