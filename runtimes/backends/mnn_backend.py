"""MNN in a process of its own.

Only the compiled converter is called.  MNN's command line tools, and anything under ``MNN.tools``, install a package with
whatever ``pip`` is on the path and report to a server; they are never run or imported here, and the path is empty.
"""

from __future__ import annotations

import os
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Fields = dict[str, Any]
    Arrays = dict[str, np.ndarray[Any, Any]]

FILE = "model.mnn"
PRECISIONS = {"float32": "high", "float16": "low", "bfloat16": "low_bf16"}


def probe(request: Fields) -> Fields:
    """What can be imported here."""
    import MNN

    return {"version": metadata.version("MNN"), "devices": ["CPU" if MNN.nn else ""]}


def convert(request: Fields) -> Fields:
    """Call the compiled converter; it says True even if it read nothing, so the file is what counts."""
    import _tools  # top-level extension module of the MNN package

    target = os.path.join(request["folder"], FILE)
    if os.path.exists(target):
        os.remove(target)
    command = ["mnnconvert", "-f", "ONNX", "--modelFile", request["model"], "--MNNModel", target, "--bizCode", "MNN"]
    if request["precision"] == "float16":
        command.append("--fp16")
    _tools.mnnconvert(command)
    if not os.path.exists(target):
        raise RuntimeError("the converter wrote no file")
    return {"files": [FILE], "command": ["MNN converter", *command[1:3], *command[7:]]}


def load(request: Fields) -> Model:
    """Load the file; input and output names are those of ONNX."""
    return Model(request)


class Model:
    """A module and the variables of its last run."""

    def __init__(self, request: Fields) -> None:
        import MNN

        self._expr: Any = MNN.expr
        self._signature = request["signature"]
        self._precision = request["precision"]
        settings = {"backend": "CPU", "numThread": max(1, request["threads"]), "precision": PRECISIONS[self._precision]}
        self._manager = MNN.nn.create_runtime_manager((settings,))
        names = [[port["name"] for port in self._signature[kind]] for kind in ("inputs", "outputs")]
        self._net = MNN.nn.load_module_from_file(request["files"][0], *names, runtime_manager=self._manager)
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def effective(self) -> Fields:
        """Version, and the precision that was allowed: MNN does not tell which one its kernels use."""
        return {"version": metadata.version("MNN"), "provider": "CPU", "precision": self._precision}

    def bind(self, inputs: Arrays) -> None:
        """Make MNN's variables; images are packed four channels at a time, as its kernels want them."""
        self._inputs = [self._variable(inputs[port["name"]]) for port in self._signature["inputs"]]

    def _variable(self, array: np.ndarray[Any, Any]) -> Any:
        expr = self._expr
        if np.issubdtype(array.dtype, np.floating):
            array, kind = np.ascontiguousarray(array, np.float32), expr.float
        else:
            array, kind = np.ascontiguousarray(array, np.int32), expr.int
        variable = expr.const(array, list(array.shape), expr.NCHW, kind)
        return expr.convert(variable, expr.NC4HW4) if array.ndim == 4 and kind == expr.float else variable

    def execute(self) -> None:
        """Compute all outputs; they are lazy until they are read."""
        found = self._net.forward(self._inputs)
        if not found:
            raise RuntimeError("MNN gives no output")
        self._outputs = [self._expr.convert(variable, self._expr.NCHW) for variable in found]
        for variable in self._outputs:
            variable.read()

    def fetch(self) -> Arrays:
        """Outputs by name, in ONNX's shape and type."""
        ports = self._signature["outputs"]
        return {port["name"]: _restored(np.array(found.read()), port) for port, found in zip(ports, self._outputs)}


def _restored(array: np.ndarray[Any, Any], port: Fields) -> np.ndarray[Any, Any]:
    shape = port["shape"]
    if shape is not None and array.size != np.prod(shape, dtype=int):
        raise RuntimeError("MNN gives {} for {}, {} expected".format(list(array.shape), port["name"], shape))
    return (array if shape is None else array.reshape(shape)).astype(port["dtype"], copy=False)
