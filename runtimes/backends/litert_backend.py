"""LiteRT (TensorFlow Lite) in a process of its own; the converter, onnx2tf, runs in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Fields = dict[str, Any]
    Arrays = dict[str, np.ndarray[Any, Any]]

STEM = "model"


def probe(request: Fields) -> Fields:
    """What can be imported here."""
    import ai_edge_litert.interpreter  # noqa: F401

    return {"version": metadata.version("ai-edge-litert")}


def convert(request: Fields) -> Fields:
    """Have onnx2tf write the file; inputs get the channels last, but where their shape could not tell."""
    folder = request["folder"]
    source = os.path.join(folder, STEM + ".onnx")
    if os.path.realpath(request["model"]) != os.path.realpath(source):
        shutil.copyfile(request["model"], source)
    command = [sys.executable, "-m", "onnx2tf", "-i", source, "-o", folder, "-n"]
    kept = [port["name"] for port in request["signature"]["inputs"] if _is_ambiguous(port["shape"])]
    command += ["-kat", *kept] if kept else []
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    log = [line.split("\r")[-1] for line in done.stdout.decode(errors="replace").splitlines()]
    print("\n".join(log))
    os.remove(source)
    if done.returncode:
        raise RuntimeError("onnx2tf ended with exit code {}: {}".format(done.returncode, " | ".join(log[-3:])))
    name = "{}_{}.tflite".format(STEM, request["precision"])
    return {"files": [name], "command": ["onnx2tf", *command[7:]], "details": {"kept": kept}}


def _is_ambiguous(shape: Any) -> bool:
    """Whether a shape stays the same with its channels last."""
    return 3 <= len(shape) <= 5 and shape[1] == shape[-1] and channels_last(shape) == list(shape)


def channels_last(shape: Any) -> list[int]:
    """Shape with the second axis moved to the end."""
    return [shape[0], *shape[2:], shape[1]]


def load(request: Fields) -> Model:
    """Make an interpreter."""
    return Model(request)


class Model:
    """An interpreter with its tensors allocated."""

    def __init__(self, request: Fields) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._ports, self._precision = request["signature"], request["precision"]
        self._interpreter = Interpreter(request["files"][0], num_threads=max(1, request["threads"]))
        self._interpreter.allocate_tensors()
        self._inputs = _matched(self._ports["inputs"], self._interpreter.get_input_details())
        self._outputs = _matched(self._ports["outputs"], self._interpreter.get_output_details())

    def effective(self) -> Fields:
        """Version, and the type of the inputs, which is that of the file."""
        types = {np.dtype(detail["dtype"]).name for _, detail in self._inputs}
        return {
            "version": metadata.version("ai-edge-litert"),
            "provider": "CPU",
            "precision": types.pop() if len(types) == 1 else self._precision,
        }

    def bind(self, inputs: Arrays) -> None:
        """Set the input tensors, channels last where the file has them so."""
        for port, detail in self._inputs:
            array = inputs[port["name"]].astype(detail["dtype"], copy=False)
            if list(array.shape) != list(detail["shape"]) and channels_last(array.shape) == list(detail["shape"]):
                array = np.moveaxis(array, 1, -1)
            self._interpreter.set_tensor(detail["index"], np.ascontiguousarray(array))

    def execute(self) -> None:
        """Run."""
        self._interpreter.invoke()

    def fetch(self) -> Arrays:
        """Outputs by their ONNX names, channels second."""
        return {port["name"]: self._output(port, detail) for port, detail in self._outputs}

    def _output(self, port: Fields, detail: Any) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = self._interpreter.get_tensor(detail["index"])
        shape = port["shape"]
        if shape is not None and list(array.shape) != list(shape):
            array = np.moveaxis(array, -1, 1) if channels_last(shape) == list(array.shape) else array.reshape(shape)
        return array.astype(port["dtype"], copy=False)


def _matched(ports: Any, details: Any) -> list[tuple[Fields, Any]]:
    """Tensors of the file by the names of ONNX, which may come with a prefix and a number; by order where names are gone."""
    found = {}
    for port in ports:
        for detail in details:
            bare = detail["name"].replace("serving_default_", "").split(":")[0]
            if bare == port["name"].split(":")[0].replace("/", "_") or bare == port["name"].split(":")[0]:
                found[port["name"]] = detail
    if len(found) == len(ports):
        return [(port, found[port["name"]]) for port in ports]
    return list(zip(ports, details))
