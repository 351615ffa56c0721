"""What goes into a model and what comes out: names, shapes and element types, as engines that are not ONNX's need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.shapes import Shadow, input_shapes, real_inputs

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes
    ----------
    name : str
        In the ONNX model.
    shape : tuple of int or None
        At the shapes the engine is built for; None where it depends on the data.
    dtype : str
        numpy's name of the element type.
    """

    name: str
    shape: Shape | None
    dtype: str


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model, in its order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read_signature(model: Path, given: Mapping[str, Shape] | None = None) -> Signature:
    """Signature of a model file at one set of input shapes.

    Parameters
    ----------
    model : Path
    given : mapping of input name to shape, optional
        See :func:`shrinkc.shapes.input_shapes`.

    Raises
    ------
    ModelLoadError
        The file cannot be read.
    RecipeError
        A shape does not fit the model.
    """
    loaded = shrinkc_ir.load(model)
    sizes = input_shapes(loaded, given)
    shadow = Shadow.of(loaded, sizes)
    inputs = tuple(_port(value, sizes[value.name or ""]) for value in real_inputs(loaded))
    return Signature(inputs, tuple(_port(value, shadow.shape(value)) for value in loaded.graph.outputs))


def _port(value: ir.Value, shape: Shape | None) -> Port:
    dtype = (value.dtype or ir.DataType.FLOAT).numpy()
    return Port(value.name or "", None if shape is None else tuple(map(int, shape)), str(dtype))
