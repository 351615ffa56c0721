"""A copy of a model with every size said, for engines that want no free ones."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from shrinkc.api import Signature
from shrinkc.ir import load, save


def with_fixed_shapes(model: Path, signature: Signature, target: Path) -> Path:
    """Write the model with the signature's shapes on its inputs and outputs; the model itself where nothing is free.

    Parameters
    ----------
    model : Path
    signature : Signature
    target : Path
        Of the copy, if one is needed.
    """
    loaded = load(model)
    ports = {port.name: port for port in (*signature.inputs, *signature.outputs)}
    free = [value for value in (*loaded.graph.inputs, *loaded.graph.outputs) if value.name in ports and _is_free(value)]
    if not free:
        return model
    for value in free:
        shape = ports[value.name or ""].shape
        value.shape = None if shape is None else ir.Shape(shape)
    for node in loaded.graph:
        for value in node.outputs:
            # Free sizes of values in between may share a name that means several; the engine infers them again.
            if _is_free(value) and value.name not in ports:
                value.shape = None
    save(loaded, target)
    return target


def _is_free(value: ir.Value) -> bool:
    return value.shape is not None and any(not isinstance(size, int) or size <= 0 for size in value.shape)
