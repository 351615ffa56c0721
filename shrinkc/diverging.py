"""The first node whose result an engine computes differently, found by making values in between outputs.

Works with every engine that takes ONNX: it is given the same model with more outputs, a few spread over the graph, then those
between the last that agrees and the first that does not.  More outputs keep an engine from fusing across them, so a
fault of a fusion can disappear; then the answer is that nothing was found.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.api import ConvertConfig, Engine, RunConfig, RuntimeAdapter
from shrinkc.comparing import compare
from shrinkc.errors import BuildError, RuntimeUnavailable
from shrinkc.shapes import Shadow, input_shapes

AT_ONCE = 12
"""Values made outputs in one round."""

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Divergence:
    """Where an engine leaves the reference.

    Attributes
    ----------
    node, op_type, value : str
        The first node found, and the output of it; empty where none was found.
    relative : float
        Its largest difference over the largest value.
    after : str
        Last value before it that agrees.
    note : str
        Why none was found.
    """

    node: str = ""
    op_type: str = ""
    value: str = ""
    relative: float = 0.0
    after: str = ""
    note: str = ""


def locate(
    engine: Engine,
    reference: RuntimeAdapter,
    model: Path,
    feed: Feed,
    tolerance: float,
    conversion: ConvertConfig,
    config: RunConfig,
) -> Divergence:
    """Look for the first node whose output is further from the reference than ``tolerance`` (relative).

    Parameters
    ----------
    engine : Engine
    reference : RuntimeAdapter
        What is right.
    model : Path
    feed : mapping of input name to ndarray
        One set of inputs on which the outputs differ.
    tolerance : float
    conversion : ConvertConfig
    config : RunConfig
    """
    sizes = {name: tuple(array.shape) for name, array in feed.items()}
    values = _inner_values(shrinkc_ir.load(model), sizes)
    if not values:
        return Divergence(note="no value in between can be looked at")
    start, end, found, after = 0, len(values), Divergence(), ""
    while start < end:
        chosen = _spread(start, end)
        try:
            errors = _errors(engine, reference, model, feed, [values[index] for index in chosen], conversion, config)
        except (BuildError, RuntimeUnavailable) as error:
            return found if found.node else Divergence(note=f"with inner values as outputs: {error.because or error.message}")
        wrong = [index for index in chosen if not errors[values[index]] <= tolerance]
        if not wrong:
            break
        found = _named(model, values[wrong[0]], errors[values[wrong[0]]])
        before = [index for index in chosen if index < wrong[0]]
        after = values[before[-1]] if before else after
        start, end = (before[-1] + 1 if before else start), wrong[0]
    if not found.node:
        return Divergence(note="every value in between agrees once it is an output")
    return Divergence(found.node, found.op_type, found.value, found.relative, after)


def _spread(start: int, end: int) -> list[int]:
    return sorted(set(np.linspace(start, end - 1, min(AT_ONCE, end - start)).astype(int).tolist()))


def _inner_values(model: ir.Model, sizes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Values of known shape and floating type, in the order they are computed."""
    shadow = Shadow.of(model, input_shapes(model, sizes))
    outputs = {value.name for value in model.graph.outputs}
    return [
        value.name
        for node in model.graph
        for value in node.outputs
        if value.name and value.name not in outputs and _is_comparable(shadow, value)
    ]


def _is_comparable(shadow: Shadow, value: ir.Value) -> bool:
    fact = shadow[value]
    is_float = fact.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    return is_float and fact.shape is not None and len(fact.shape) > 0 and fact.value is None


def _errors(
    engine: Engine,
    reference: RuntimeAdapter,
    model: Path,
    feed: Feed,
    names: Sequence[str],
    conversion: ConvertConfig,
    config: RunConfig,
) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="shrinkc-diverging-") as folder:
        variant = _with_outputs(model, names, feed, Path(folder) / "variant.onnx")
        expected = reference.load(variant, RunConfig()).run(feed)
        artifact = engine.convert(variant, Path(folder) / "artifact", conversion)
        with engine.open(artifact, config) as session:
            found = session.run(feed)
    return {difference.output: difference.relative for difference in compare([expected], [found]) if difference.output in names}


def _with_outputs(model: Path, names: Sequence[str], feed: Feed, target: Path) -> Path:
    loaded = shrinkc_ir.load(model)
    sizes = {name: tuple(array.shape) for name, array in feed.items()}
    shadow = Shadow.of(loaded, input_shapes(loaded, sizes))
    values = {value.name: value for node in loaded.graph for value in node.outputs}
    for name in names:
        value, fact = values[name], shadow[values[name]]
        value.shape, value.type = ir.Shape(fact.shape or ()), ir.TensorType(fact.dtype or ir.DataType.FLOAT)
        loaded.graph.outputs.append(value)
    shrinkc_ir.save(loaded, target)
    return target


def _named(model: Path, value: str, relative: float) -> Divergence:
    for node in shrinkc_ir.load(model).graph:
        if value in {output.name for output in node.outputs}:
            return Divergence(node.name or value, node.op_type, value, relative)
    return Divergence(value, "", value, relative)
