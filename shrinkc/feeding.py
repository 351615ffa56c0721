"""Inputs that two models are compared on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.analysis.labels import Shape
from shrinkc.api import Session
from shrinkc.shapes import Shadow, real_inputs

Arrays = Mapping[str, np.ndarray]


def feeds(model: ir.Model, shapes: Mapping[str, Shape], seed: int, samples: Arrays | None) -> list[tuple[str, Arrays]]:
    """Named inputs for both models: random ones at batch 1 and 2 where the batch is free, and real ones if given."""
    result: list[tuple[str, Arrays]] = []
    for batch in (1, 2) if _batch_is_free(model) else (None,):
        generator = np.random.default_rng(seed + (batch or 0))
        feed = {name: random_input(value, _batched(shapes[name], batch), generator) for name, value in _named_inputs(model)}
        result.append((f"random, batch {batch or 'fixed'}", feed))
    if samples is not None:
        result.append(("data", samples))
    return result


def at_other_sizes(
    analysis: Analysis, is_kept: BoolArray, shapes: Mapping[str, Shape], dense: Session, seed: int
) -> list[tuple[str, Arrays]]:
    """A feed with every free size but the batch enlarged, if the original runs there: no size may have been frozen."""
    model = analysis.model
    larger = {name: _enlarged(value, shapes[name]) for name, value in _named_inputs(model)}
    if all(larger[name] == shapes[name] for name in larger) or _mixes_sizes(analysis, is_kept, larger):
        return []
    generator = np.random.default_rng(seed)
    feed = {name: random_input(value, larger[name], generator) for name, value in _named_inputs(model)}
    try:
        dense.run(feed)
    except Exception:  # many models only accept some sizes; then there is nothing to compare
        return []
    return [("random, larger sizes", feed)]


def _mixes_sizes(analysis: Analysis, is_kept: BoolArray, larger: Mapping[str, Shape]) -> bool:
    """Whether channels are mixed along an axis that also holds free sizes: the masked original fits one size only."""
    active = [mixing for mixing, classes in analysis.mixings() if not is_kept[classes].all()]
    if not active:
        return False
    shadow = Shadow.of(analysis.model, larger)
    data = [(mixing.node.inputs[mixing.input_index], mixing.axis) for mixing in active]
    return any(
        (shadow.shape(value) or ())[axis:][:1] != (analysis.shadow.shape(value) or ())[axis:][:1] for value, axis in data
    )


def _enlarged(value: ir.Value, shape: Shape) -> Shape:
    step = 32 if len(shape) >= 4 else 8  # images mostly want multiples of 32
    declared = list(value.shape or shape)
    return tuple(
        size + step if axis and not (isinstance(dim, int) and dim > 0) else size
        for axis, (size, dim) in enumerate(zip(shape, declared, strict=True))
    )


def _named_inputs(model: ir.Model) -> list[tuple[str, ir.Value]]:
    return [(value.name or "", value) for value in real_inputs(model)]


def _batch_is_free(model: ir.Model) -> bool:
    first = [value.shape[0] for value in real_inputs(model) if value.shape is not None and len(value.shape)]
    return bool(first) and all(not isinstance(dim, int) or dim <= 0 for dim in first)


def _batched(shape: Shape, batch: int | None) -> Shape:
    return shape if batch is None or not shape else (batch, *shape[1:])


def random_input(value: ir.Value, shape: Shape, generator: np.random.Generator) -> np.ndarray:
    """Random input that a model of any kind is likely to accept: normal floats, small positive integers, true."""
    dtype = (value.dtype or ir.DataType.FLOAT).numpy()
    if dtype == np.bool_:
        return np.ones(shape, np.bool_)
    if np.issubdtype(dtype, np.integer):
        return generator.integers(1, 8, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)
