r"""Inputs that give a linear layer's outputs the statistics they had in training, in closed form.

Inputs are a mean per channel plus a sum of independent noise fields, each of one colour (a direction in channel space)
and one spectrum.  With :math:`k, l` the taps, :math:`F_{kl}` the share of positions at which both read the input and not
the padding, :math:`R_{kl}` the correlation of the noise at their distance, and :math:`w_{o,k}` the kernel summed along a
colour, the output :math:`o` has

.. math:: E[y_o] = \sum_{c,k} w_{o,c,k} F_{kk} m_c, \qquad
   Var[y_o] = \sum_{kl} M_{o,k} M_{o,l} (F_{kl} - F_{kk} F_{ll}) + \sum_a s_a \sum_{kl} w_{o,k} w_{o,l} F_{kl} R_{kl}

where :math:`M_{o,k} = \sum_c w_{o,c,k} m_c`.  The means :math:`m` are linear least squares, the variances :math:`s_a` of
the fields then non-negative least squares.

References
----------
Inputs from BatchNormalization statistics: Yin et al., Dreaming to Distill, CVPR 2020, the feature regulariser.  Differs:
only the statistics of the first layer are matched, which needs no gradient descent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from shrinkc.evidence import smooth_noise
from shrinkc.evidence.first_layer import FirstLayer, Linear

FloatArray = NDArray[np.float64]

SPECTRA = (1.0, 0.0)
"""Falls of the amplitude that noise is mixed of: that of photographs, and white."""

MOST_MIXED = 4
"""Images have this many channels at most; only theirs are mixed, because the number of colours grows with the square."""

RIDGE = 1e-3
"""Weight of the prior, relative to the equations: it decides only what these leave open."""

MOST_STEPS = 100
"""Steps of the non-negative solver per unknown; it needs about one."""

QUIET = 1e-2
"""Outputs quieter than this share of the median variance count as if they had it: dead outputs tell nothing."""


@dataclass(frozen=True)
class Noise:
    """One noise field of an input.

    Attributes
    ----------
    colour : ndarray of shape (channels,), float64
    exponent : float
        Of its spectrum.
    variance : float
    """

    colour: FloatArray
    exponent: float
    variance: float


@dataclass(frozen=True)
class InputModel:
    """Distribution of an input: ``mean`` of shape (channels,) plus noise."""

    mean: FloatArray
    noises: tuple[Noise, ...]


def fit(layer: FirstLayer, n_channels: int) -> InputModel:
    """Distribution of the layer's input, after what happens to the graph's input before it."""
    if layer.linear is None:
        colours = np.eye(n_channels)
        noises = tuple(Noise(colour, SPECTRA[0], float(v)) for colour, v in zip(colours, layer.variance, strict=True))
        return InputModel(layer.mean, noises)
    response = Response(layer.linear)
    floor = np.maximum(layer.variance, QUIET * np.median(layer.variance) + np.finfo(float).tiny)
    mean = _least_squares(response.of_constants() / np.sqrt(floor)[:, None], layer.mean / np.sqrt(floor))
    variance = np.maximum(layer.variance - response.of_borders(mean), 0) / floor
    spectra = SPECTRA if layer.linear.windows else SPECTRA[:1]
    candidates = [(colour, exponent) for exponent in spectra for colour in colours_of(n_channels)]
    columns = [response.of_noise(colour, exponent) / floor for colour, exponent in candidates]
    found = _non_negative(np.stack(columns, 1), variance, n_channels)
    noises = tuple(Noise(*candidate, float(v)) for candidate, v in zip(candidates, found, strict=True) if v > 0)
    return InputModel(mean, noises)


def colours_of(n_channels: int) -> list[FloatArray]:
    """Directions in channel space: each channel alone, then, for images, sums and differences of two, and grey."""
    alone = list(np.eye(n_channels))
    if not 1 < n_channels <= MOST_MIXED:
        return alone
    pairs = [colour for a, b in combinations(alone, 2) for colour in (a + b, a - b)]
    return [*alone, *pairs, *([np.ones(n_channels)] if n_channels > 2 else [])]


class Response:
    """What the layer makes of constants and of noise, exactly, borders included."""

    def __init__(self, linear: Linear) -> None:
        self.kernel = linear.kernel.reshape(*linear.kernel.shape[:2], -1)
        self.shape = tuple(window.size for window in linear.windows)
        inside = [window.is_inside().astype(np.float64) for window in linear.windows]
        self.both_inside = _outer([read.T @ read / len(read) for read in inside])
        self.inside = np.diag(self.both_inside)
        self.lags = [
            (np.subtract.outer(np.arange(window.taps), np.arange(window.taps)) * window.dilation) % window.size
            for window in linear.windows
        ]

        self.correlations = {exponent: self._correlation(exponent) for exponent in SPECTRA}

    def of_constants(self) -> FloatArray:
        """Mean output for a constant 1 in one channel: shape (outputs, channels)."""
        found: FloatArray = self.kernel @ self.inside
        return found

    def of_borders(self, mean: FloatArray) -> FloatArray:
        """Variance that a constant input has, because outputs at the border see the padding: shape (outputs,)."""
        taps = np.einsum("ock,c->ok", self.kernel, mean)
        return _quadratic(taps, self.both_inside - np.outer(self.inside, self.inside))

    def of_noise(self, colour: FloatArray, exponent: float) -> FloatArray:
        """Variance of the outputs for noise of variance 1: shape (outputs,)."""
        taps = np.einsum("ock,c->ok", self.kernel, colour)
        return _quadratic(taps, self.both_inside * self.correlations[exponent])

    def _correlation(self, exponent: float) -> FloatArray:
        """Correlation of the noise between every two taps."""
        if not self.shape:
            return np.ones((1, 1))
        sizes = [len(lag) for lag in self.lags]
        index = tuple(_spread(lag, axis, sizes) for axis, lag in enumerate(self.lags))
        n_taps = int(np.prod(sizes))
        return smooth_noise.autocorrelation(self.shape, exponent)[index].reshape(n_taps, n_taps)


def _spread(lag: NDArray[np.int64], axis: int, sizes: Sequence[int]) -> NDArray[np.int64]:
    """Lag along one axis, laid out for (first tap's axes, second tap's axes)."""
    shape = [1] * (2 * len(sizes))
    shape[axis] = shape[axis + len(sizes)] = sizes[axis]
    return lag.reshape(shape)


def _outer(matrices: Sequence[FloatArray]) -> FloatArray:
    """Kronecker product; of nothing, 1."""
    product: FloatArray = np.ones((1, 1))
    for matrix in matrices:
        product = np.kron(product, matrix).astype(np.float64)
    return product


def _quadratic(rows: FloatArray, matrix: FloatArray) -> FloatArray:
    found: FloatArray = ((rows @ matrix) * rows).sum(1)
    return found


def _least_squares(columns: FloatArray, wanted: FloatArray) -> FloatArray:
    """Solution that is small where the equations leave it open."""
    prior = RIDGE * np.sqrt((columns**2).sum(0).mean()) * np.eye(columns.shape[1])
    found: FloatArray = np.linalg.lstsq(np.vstack([columns, prior]), np.append(wanted, np.zeros(len(prior))))[0]
    return found


def _non_negative(columns: FloatArray, wanted: FloatArray, n_channels: int) -> FloatArray:
    """Variances of the fields; where the equations leave them open, all channels are alike and nothing is mixed."""
    alike = columns[:, :n_channels].sum(1)
    common = max(0.0, float(alike @ wanted) / max(float(alike @ alike), np.finfo(float).tiny))
    weight = RIDGE * np.sqrt((columns**2).sum(0).mean())
    prior = weight * common * (np.arange(columns.shape[1]) < n_channels)
    found: FloatArray = nnls(
        np.vstack([columns, weight * np.eye(columns.shape[1])]), np.append(wanted, prior), maxiter=MOST_STEPS * columns.shape[1]
    )[0]
    return found
