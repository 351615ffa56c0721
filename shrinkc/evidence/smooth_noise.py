"""Noise whose amplitude falls with the spatial frequency, as that of photographs does.

The noise is stationary and periodic over its own size, so its autocorrelation is exactly the inverse Fourier transform of
its power spectrum: what a filter makes of it can be told without a sample.

References
----------
Field. Relations between the statistics of natural images and the response properties of cortical cells. JOSA A 4(12),
1987: amplitudes of natural images fall like 1/f.  Differs: the mean (f = 0, where 1/f has no value) gets the amplitude of
the lowest frequency of the longest axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Shape = tuple[int, ...]


def power(shape: Shape, exponent: float) -> FloatArray:
    """Power at every frequency of noise of variance 1.

    Parameters
    ----------
    shape : tuple of int
        Spatial sizes.
    exponent : float
        Of the fall of the amplitude: 0 is white, 1 is that of photographs.

    Returns
    -------
    ndarray of shape ``shape``, float64, mean 1
    """
    axes = np.meshgrid(*(np.fft.fftfreq(size) for size in shape), indexing="ij")
    frequency = np.sqrt(sum((axis**2 for axis in axes), start=np.zeros(shape)))
    found = np.maximum(frequency, 1 / max(shape)) ** (-2 * exponent)
    spectrum: FloatArray = found / found.mean()
    return spectrum


def autocorrelation(shape: Shape, exponent: float) -> FloatArray:
    """Covariance of two positions by their distance along each axis, modulo the size; 1 at distance 0."""
    found: FloatArray = np.fft.ifftn(power(shape, exponent)).real
    return found


def fields(n_fields: int, shape: Shape, exponent: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """Samples of the noise, together of mean 0 and variance 1 as exactly as rounding allows.

    Returns
    -------
    ndarray of shape (n_fields, *shape), float32
    """
    noise = np.empty((n_fields, *shape), np.float32)
    amplitude = np.sqrt(power(shape, exponent)) if shape else np.ones(())
    for index in range(n_fields):  # one by one: transforms of all together would take eight times the memory
        white = generator.standard_normal(shape)
        noise[index] = np.fft.ifftn(np.fft.fftn(white) * amplitude).real if exponent and shape else white
    if noise.size > 1:
        noise -= noise.mean(dtype=np.float64)
        noise /= noise.std(dtype=np.float64)
    return noise
