"""Engines that misbehave on purpose; each is a backend of a few lines, run by the real agent in a real process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shrinkc.runtimes.isolated import IsolatedEngine
from shrinkc.runtimes.onnx_files import OnnxEngine

HEALTHY = """
import onnxruntime as ort

class Model:
    def __init__(self, request):
        self.names = [port["name"] for port in request["signature"]["outputs"]]
        self.session = ort.InferenceSession(request["files"][0], providers=["CPUExecutionProvider"])
    def effective(self):
        return {"version": "1", "provider": "CPU", "precision": "float32"}
    def bind(self, inputs):
        self.inputs = inputs
    def execute(self):
        self.found = self.session.run(self.names, self.inputs)
    def fetch(self):
        return dict(zip(self.names, self.found))

def load(request):
    return Model(request)
"""

CRASHING = "import os, signal\ndef load(request):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"

HANGING = "import time\ndef load(request):\n    time.sleep(600)\n"

TAMPERING = (
    HEALTHY
    + """
import onnx

def load(request):
    model = onnx.load(request["files"][0])
    for node in model.graph.node:
        if node.op_type == "Sigmoid":
            node.op_type = "Tanh"
    onnx.save(model, "tampered.onnx")
    return Model(dict(request, files=["tampered.onnx"]))
"""
)

SHIFTING = HEALTHY.replace("self.found))", "[array + abs(array).max() for array in self.found]))")

SWAPPING = HEALTHY.replace("self.found))", "[array[:, ::-1] for array in self.found]))")

COUNTING = (
    HEALTHY
    + """
import os, shutil
converted = 0
def convert(request):
    global converted
    converted += 1
    shutil.copy(request["model"], os.path.join(request["folder"], "model.onnx"))
    return {"files": ["model.onnx"], "details": {"converted": converted}}
"""
)
"""It tells how many models its converter's process has had."""

SLOW_CONVERTER = "import time\ndef convert(request):\n    time.sleep(600)\n"

FORGETFUL = "def convert(request):\n    return {'files': ['model.bin']}\n"

BROKEN_FILE = """
import os
def convert(request):
    open(os.path.join(request["folder"], "model.bin"), "wb").close()
    return {"files": ["model.bin"]}
def load(request):
    raise RuntimeError("unexpected end of file")
"""


def onnx_engine(folder: Path, source: str, name: str = "fake") -> Any:
    """An engine that loads ONNX, with this backend."""
    return _engine(OnnxEngine, folder, source, name)


def converting_engine(folder: Path, source: str, name: str = "fake") -> Any:
    """An engine with a converter, with this backend."""
    return _engine(IsolatedEngine, folder, source, name)


def _engine(base: type[IsolatedEngine], folder: Path, source: str, name: str) -> Any:
    file = folder / f"{name}_backend.py"
    file.write_text(source, encoding="utf-8")
    facts = {"name": name, "backend": file, "distributions": ("numpy",), "modules": ("numpy",), "hint": "pip install numpy"}
    formats = {"formats": ("bin",)} if base is IsolatedEngine else {}
    return type("Fake", (base,), {**facts, **formats})()
