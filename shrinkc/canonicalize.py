"""Clean-up of a model after surgery: what became constant is folded, what became dead is dropped.

Float tensors are left as they are, under their own names, so that plan and model can still be compared; BatchNormalization
stays where it was found (runtimes fold it when they load the model).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from shrinkc.ir import strip_debug_info


def canonicalize(model: ir.Model) -> ir.Model:
    """Fold shape arithmetic (computed pads, reshape targets) and remove dead nodes, in place.

    onnxscript's folder is used because it keeps metadata of the nodes it does not touch.
    """
    from onnxscript.optimizer import fold_constants

    # It warns of every node that it tries to evaluate and cannot; that one is then left as it is.
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)
    silent = {value.name for value in _activations(model) if value.type is None and value.shape is None}
    fold_constants(model, onnx_shape_inference=True, should_fold=_is_shape_arithmetic)
    for value in _activations(model):
        if value.name in silent:  # what the folder inferred would be written out, and was not there
            value.type, value.shape = None, None
    drop_unused(model)
    strip_debug_info(model)
    return model


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that no output depends on, in place."""
    RemoveUnusedNodesPass()(model)


def _activations(model: ir.Model) -> Iterator[ir.Value]:
    outputs = set(model.graph.outputs)
    return (value for node in model.graph.all_nodes() for value in node.outputs if value not in outputs)


def _is_shape_arithmetic(node: ir.Node) -> bool | None:
    """Fold integers and booleans by the default rules, never floats."""
    types = [output.dtype for output in node.outputs]
    if any(dtype is None or dtype.is_floating_point() for dtype in types):
        return False
    return None
