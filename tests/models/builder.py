"""A few lines to write an ONNX model by hand, with random weights that make every channel matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = list[int | str]


class Net:
    """Grows a graph; every method adds a node and returns the name of its output."""

    def __init__(self, opset: int = 17, ir_version: int = 8, seed: int = 0, dtype: type = np.float32) -> None:
        self.opset, self.ir_version, self.dtype = opset, ir_version, dtype
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: dict[str, int] = {}

    @property
    def elem(self) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))

    def input(self, name: str, shape: Shape, elem: int | None = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, elem or self.elem, shape))
        return name

    def output(self, name: str, elem: int | None = None) -> None:
        self.outputs.append(helper.make_empty_tensor_value_info(name))
        self.outputs[-1].type.tensor_type.elem_type = elem or self.elem

    def const(self, array: Any, name: str | None = None) -> str:
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.asarray(values, np.int64))

    def weight(self, *shape: int, name: str | None = None) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self.const((self.random.standard_normal(shape) * np.sqrt(2 / fan)).astype(self.dtype), name)

    def vector(self, size: int, name: str | None = None) -> str:
        values = self.random.uniform(0.4, 1.6, size) * self.random.choice([-1, 1], size)
        return self.const(values.astype(self.dtype), name)

    def positive(self, size: int) -> str:
        return self.const(self.random.uniform(0.4, 1.6, size).astype(self.dtype))

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        number = len(self.nodes)
        names = [f"{kind.lower()}{number}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        node = helper.make_node(kind, list(inputs), names, name=f"{kind}_{number}", domain=domain, **attributes)
        self.nodes.append(node)
        return names if outputs > 1 else names[0]

    def conv(
        self, x: str, inputs: int, outputs: int, k: int = 3, *, group: int = 1, bias: bool = True, **attributes: Any
    ) -> str:
        parts = [x, self.weight(outputs, inputs // group, k, k)] + ([self.vector(outputs)] if bias else [])
        attributes.setdefault("pads", [k // 2] * 4)
        return str(self.op("Conv", *parts, group=group, kernel_shape=[k, k], **attributes))

    def bn(self, x: str, channels: int) -> str:
        parts = [self.vector(channels), self.vector(channels), self.vector(channels), self.positive(channels)]
        return str(self.op("BatchNormalization", x, *parts))

    def relu(self, x: str) -> str:
        return str(self.op("Relu", x))

    def cbr(self, x: str, inputs: int, outputs: int, k: int = 3, **attributes: Any) -> str:
        return self.relu(self.bn(self.conv(x, inputs, outputs, k, bias=False, **attributes), outputs))

    def head(self, x: str, channels: int, classes: int = 5) -> str:
        pooled = self.op("Flatten", self.op("GlobalAveragePool", x))
        return str(self.op("Gemm", pooled, self.weight(classes, channels), self.vector(classes), transB=1))

    def model(self) -> onnx.ModelProto:
        inputs = list(self.inputs)
        if self.ir_version < 4:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in self.initializers]
        graph = helper.make_graph(self.nodes, "net", inputs, self.outputs, self.initializers)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, v) for d, v in self.domains.items())]
        model = helper.make_model(graph, opset_imports=opsets, functions=self.functions)
        model.ir_version = self.ir_version
        model.producer_name = "shrinkc-tests"
        helper.set_model_props(model, {"task": "test", "classes": "a,b"})
        return model

    def save(self, path: Path) -> Path:
        onnx.save(self.model(), str(path))
        return path


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
