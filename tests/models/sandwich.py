"""A single operator between two layers with weights, so that its channels can be removed and the removal proved."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUT = "sandwich_input"


class Sandwich:
    """Puts a producing layer before input ``slot`` of a model and a consuming one after every float output."""

    def __init__(self, model: onnx.ModelProto, slot: int) -> None:
        self.model, self.slot = copy.deepcopy(model), slot
        self.random = np.random.default_rng(0)
        self.tensors: list[onnx.TensorProto] = []

    def made(self, inputs: Sequence[object], outputs: Sequence[object]) -> onnx.ModelProto | None:
        """The model with its other inputs fixed at the given values; None where a layer does not fit."""
        graph = self.model.graph
        data = inputs[self.slot]
        if not (_is_layered(graph.input[self.slot], data) and all(isinstance(array, np.ndarray) for array in inputs)):
            return None
        for value, array in zip(graph.input, inputs, strict=True):
            if value is not graph.input[self.slot]:
                self.tensors.append(numpy_helper.from_array(array, value.name))
        before = self.layer("before", INPUT, graph.input[self.slot].name, np.shape(data), width=2)
        after = [
            self.layer(f"after_{value.name}", value.name, f"after_{value.name}", np.shape(array), width=None)
            for value, array in zip(graph.output, outputs, strict=False)
            if _is_layered(value, array)
        ]
        return self.assembled(before, after, np.shape(data)) if after else None

    def layer(self, name: str, source: str, result: str, shape: tuple[int, ...], width: int | None) -> onnx.NodeProto:
        """A layer that makes the channels of ``shape`` out of ``width``, or three out of them if ``width`` is None."""
        is_picture = len(shape) in (3, 4, 5)
        channels = shape[1] if is_picture else shape[-1]
        made, read = (3, channels) if width is None else (channels, width)
        size = (made, read, *[1] * (len(shape) - 2)) if is_picture else (read, made)
        self.tensors.append(numpy_helper.from_array(self.random.standard_normal(size).astype(np.float32), f"{name}_weight"))
        kind = "Conv" if is_picture else "MatMul"
        return helper.make_node(kind, [source, f"{name}_weight"], [result], name=name)

    def assembled(self, before: onnx.NodeProto, after: list[onnx.NodeProto], shape: tuple[int, ...]) -> onnx.ModelProto:
        model, graph = self.model, self.model.graph
        nodes = [before, *graph.node, *after]
        del graph.node[:], graph.input[:], graph.output[:]
        graph.node.extend(nodes)
        graph.initializer.extend(self.tensors)
        fed = (shape[0], 2, *shape[2:]) if before.op_type == "Conv" else (*shape[:-1], 2)
        graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, fed))
        for node in after:
            graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None))
        if all(entry.domain for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid("", 17))
        model.ir_version = max(model.ir_version, 8)
        return model


def _is_layered(value: onnx.ValueInfoProto, array: object) -> bool:
    is_float = value.type.tensor_type.elem_type == TensorProto.FLOAT
    return is_float and isinstance(array, np.ndarray) and array.ndim >= 2 and array.size > 0
