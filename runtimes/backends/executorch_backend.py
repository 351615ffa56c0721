"""ExecuTorch in a process of its own; its environment has torch, executorch and shrinkc, whose executor is what is exported."""

from __future__ import annotations

import importlib
import os
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Fields = dict[str, Any]
    Arrays = dict[str, np.ndarray[Any, Any]]

FILE = "model.pte"


def probe(request: Fields) -> Fields:
    """What can be imported here (slow: half a minute)."""
    importlib.import_module("executorch.runtime")
    importlib.import_module("shrinkc.training.executor")
    return {"version": metadata.version("executorch")}


def convert(request: Fields) -> Fields:
    """The graph as a torch module, exported, and lowered to XNNPACK where that takes it."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    module = _positional(torch, request)
    ports = request["signature"]["inputs"]
    example = tuple(torch.zeros(port["shape"], dtype=getattr(torch, port["dtype"])) for port in ports)
    exported = torch.export.export(module, example)
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    with open(os.path.join(request["folder"], FILE), "wb") as stream:
        stream.write(program.buffer)
    return {"files": [FILE]}


def _positional(torch: Any, request: Fields) -> Any:
    """Module that takes tensors in the order of the inputs, and gives a tuple."""
    executor = importlib.import_module("shrinkc.training.executor")
    reading = importlib.import_module("shrinkc.ir")
    inputs = [port["name"] for port in request["signature"]["inputs"]]
    outputs = [port["name"] for port in request["signature"]["outputs"]]

    class Positional(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            graph = executor.Executor(_plainly_named(reading.load(request["model"]))).eval()
            for name, tensor in graph.state_dict().items():
                self.register_buffer(name, tensor)
            self.hidden = [graph]  # torch.export does not find tensors that a module keeps in tables of its own

        def forward(self, *given: Any) -> Any:
            weights = dict(self.named_buffers())
            found = self.hidden[0](dict(zip(inputs, given)), weights=weights)
            return tuple(found[name] for name in outputs)

    return Positional().eval()


def _plainly_named(model: Any) -> Any:
    """Names that torch.export can write as attributes; ``onnx::Conv_1`` is none."""
    for index, value in enumerate(list(model.graph.initializers.values())):
        value.name = "weight_{}".format(index)
    return model


def load(request: Fields) -> Model:
    """Load the program's forward method."""
    return Model(request)


class Model:
    """A method, and the tensors of its last run."""

    def __init__(self, request: Fields) -> None:
        from executorch.runtime import Runtime

        self._ports = request["signature"]
        self._program = Runtime.get().load_program(request["files"][0])
        self._method = self._program.load_method("forward")
        self._inputs: list[Any] = []
        self._found: Any = []

    def effective(self) -> Fields:
        """Version; the program computes in the types it was exported with."""
        return {"version": metadata.version("executorch"), "provider": "XNNPACK", "precision": "float32"}

    def bind(self, inputs: Arrays) -> None:
        """Tensors of torch, in order."""
        import torch

        self._inputs = [torch.from_numpy(np.array(inputs[port["name"]])) for port in self._ports["inputs"]]

    def execute(self) -> None:
        """Run."""
        self._found = self._method.execute(self._inputs)

    def fetch(self) -> Arrays:
        """Outputs by their ONNX names."""
        ports = self._ports["outputs"]
        return {port["name"]: np.array(found.numpy()).astype(port["dtype"]) for port, found in zip(ports, self._found)}
