"""How many samples are run at once: few where values are large, so that memory does not grow with the size of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkc.analysis.groups import Analysis
from shrinkc.evidence.data import Data, fixed_batch

LARGEST_BATCH = 32

VALUE_BYTES = 32 << 20
"""Of the largest value of the graph for one batch; some of its size are there at a time."""


def batch_size(analysis: Analysis, largest: int = LARGEST_BATCH) -> int:
    """Samples to run at once, at most ``largest``; what the model insists on, if it does."""
    fixed = fixed_batch(analysis.model)
    return fixed or max(1, min(largest, VALUE_BYTES // max(1, _bytes_of_largest_value(analysis))))


def batches_of(analysis: Analysis, data: Data) -> list[Mapping[str, NDArray[Any]]]:
    """Batches for a walk; the remainder that a fixed batch leaves over is dropped."""
    size, fixed = batch_size(analysis), fixed_batch(analysis.model)
    return [batch for batch in data.batches(size) if fixed is None or len(next(iter(batch.values()))) == fixed]


def _bytes_of_largest_value(analysis: Analysis) -> int:
    """Of one sample, by the shapes that the model was analysed at; every value counts as single precision."""
    shapes = [analysis.shadow.shape(value) for node in analysis.model.graph for value in node.outputs]
    inputs = [analysis.shadow.shape(value) for value in analysis.model.graph.inputs]
    batch = max([shape[0] for shape in inputs if shape] or [1])
    largest = max([math.prod(shape) for shape in shapes if shape] or [1])
    return largest * np.dtype(np.float32).itemsize // max(1, batch)
