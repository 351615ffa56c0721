"""Inputs made up from the model, for steps that need some and have no data.

They tell nothing about accuracy; what is computed on them is marked so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc.errors import CalibrationError
from shrinkc.evidence import first_layer, input_fit, smooth_noise
from shrinkc.evidence.data import Data
from shrinkc.evidence.first_layer import FirstLayer
from shrinkc.feeding import random_input
from shrinkc.shapes import real_inputs

Shape = tuple[int, ...]
FloatArray = NDArray[np.float32]

SOURCE = "synthetic"


def synthesise(model: ir.Model, shapes: Mapping[str, Shape], n_samples: int, seed: int) -> Data:
    """Inputs that look to the model's first BatchNormalization like those of its training, or else random ones.

    Parameters
    ----------
    model : ir.Model
    shapes : mapping of input name to shape
        As returned by :func:`shrinkc.shapes.input_shapes`; the first axis is the batch.
    n_samples : int
        Rounded up to a multiple of a fixed batch.
    seed : int

    Returns
    -------
    Data
        Without labels, marked ``is_synthetic``.

    Raises
    ------
    CalibrationError
        An input has no axis of samples, or inputs insist on different numbers of them.
    """
    batch = _batch(model)
    n_samples = -(-n_samples // batch) * batch
    generator = np.random.default_rng(seed)
    inputs = {}
    for value in real_inputs(model):
        name = value.name or ""
        inputs[name] = _made_up(value, (n_samples, *shapes[name][1:]), generator)
    return Data(inputs, None, SOURCE, is_synthetic=True)


def _batch(model: ir.Model) -> int:
    sizes: set[int] = set()
    for value in real_inputs(model):
        if value.shape is not None and not len(value.shape):
            raise CalibrationError("samples cannot be made up", where=value.name or "", because="the input is a single number")
        first = 0 if value.shape is None else value.shape[0]
        sizes |= {first} if isinstance(first, int) and first > 0 else set()
    if len(sizes) > 1:
        raise CalibrationError(
            "samples cannot be made up", because=f"expected one number of samples for all inputs, found {sorted(sizes)}"
        )
    return sizes.pop() if sizes else 1


def _made_up(value: ir.Value, shape: Shape, generator: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
    layer = first_layer.find(value, shape) if np.issubdtype(dtype, np.number) else None
    if layer is None:
        return random_input(value, shape, generator)
    found = _fitted(layer, shape, generator)
    return found.astype(dtype) if np.issubdtype(dtype, np.floating) else _whole(found, dtype)


def _whole(values: FloatArray, dtype: np.dtype[Any]) -> np.ndarray:
    """Nearest integers that the type can hold: pixels, mostly."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def _fitted(layer: FirstLayer, shape: Shape, generator: np.random.Generator) -> FloatArray:
    n_samples, n_channels, *spatial = (shape[axis] for axis in layer.axes)
    model = input_fit.fit(layer, n_channels)
    ends = (1,) * len(spatial)
    values = np.empty((n_samples, n_channels, *spatial), np.float32)
    values[:] = model.mean.reshape(1, -1, *ends)
    for noise in model.noises:
        field = smooth_noise.fields(n_samples, tuple(spatial), noise.exponent, generator)
        for channel in np.flatnonzero(noise.colour):
            values[:, channel] += np.float32(noise.colour[channel] * noise.variance**0.5) * field
    values -= layer.offset.reshape(1, -1, *ends)
    values /= layer.gain.reshape(1, -1, *ends)
    return values.transpose(np.argsort(layer.axes))
