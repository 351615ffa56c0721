"""A board without a board: TensorRT and the CUDA runtime as far as the script for it goes, played by onnxruntime."""

from __future__ import annotations

import ctypes
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import shrinkc
from models.builder import Net
from shrinkc.report.model import Report


def convolutional() -> Net:
    net = Net()
    x = net.cbr(net.input("x", ["n", 3, 8, 8]), 3, 20)
    net.head(net.cbr(x, 20, 32), 32)
    net.nodes[-1].output[0] = "y"
    net.output("y")
    return net


def sent_to_jetson(root: Path) -> Report:
    """Halve a network for a Jetson board, INT8 too, into a folder; what is sent lies in ``small.jetson-orin-nano`` there."""
    onnx.save(convolutional().model(), str(root / "model.onnx"))
    samples = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
    np.savez(root / "samples.npz", x=samples)
    return shrinkc.compress(
        root / "model.onnx",
        output=root / "small.onnx",
        target="jetson",
        recipe="magnitude",
        prune_ratio=0.5,
        data=root / "samples.npz",
        verify=False,
        measure_latency=False,
    )


class FakeCuda:
    """Memory of the host in the place of the device's."""

    def __init__(self) -> None:
        self.stream, self._kept = ctypes.c_void_p(7), []

    def allocate(self, size: int) -> ctypes.c_void_p:
        self._kept.append(ctypes.create_string_buffer(max(size, 1)))
        return ctypes.c_void_p(ctypes.addressof(self._kept[-1]))

    def copy(self, destination: Any, source: Any, size: int, direction: int) -> None:
        ctypes.memmove(destination, source, size)

    def wait(self) -> None:
        """Nothing runs beside."""


def fake_tensorrt(version: str, flags: list[int]) -> types.ModuleType:
    """A TensorRT whose engines are ONNX files, run by onnxruntime."""
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = version

    class Profile(dict):  # type: ignore[type-arg]
        def set_shape(self, name: str, *sizes: tuple[int, ...]) -> None:
            self[name] = sizes

    class Anything:
        WARNING = WORKSPACE = DETAILED = 0
        INPUT, OUTPUT = "in", "out"
        num_errors = 0

        def __init__(self, *arguments: Any) -> None:
            self.model = b""

        def create_network(self, flag: int) -> Any:
            flags.append(flag)
            return self

        num_inputs, shapes = 1, None

        def get_input(self, index: int) -> Any:
            graph = onnx.load_from_string(Anything.parsed).graph  # type: ignore[attr-defined]
            sizes = [size.dim_value or -1 for size in graph.input[index].type.tensor_type.shape.dim]
            return types.SimpleNamespace(name=graph.input[index].name, shape=sizes, is_shape_tensor=False)

        def create_optimization_profile(self) -> dict[str, Any]:
            return Profile()

        def add_optimization_profile(self, profile: dict[str, Any]) -> None:
            Anything.shapes = profile

        def create_builder_config(self) -> Any:
            return self

        def parse_from_file(self, path: str) -> bool:
            Anything.parsed = Path(path).read_bytes()  # type: ignore[attr-defined]
            return True

        def set_timing_cache(self, *arguments: Any) -> None:
            """Kept nowhere."""

        def create_timing_cache(self, stored: bytes) -> Any:
            return self

        def get_timing_cache(self) -> Any:
            return self

        def serialize(self) -> bytes:
            return b"cache"

        def build_serialized_network(self, *arguments: Any) -> bytes | None:
            tensor = self.get_input(0)
            is_known = min(tensor.shape) > 0 or (Anything.shapes or {}).get(tensor.name)
            return bytes(Anything.parsed) if is_known else None  # type: ignore[attr-defined]

        def deserialize_cuda_engine(self, blob: bytes) -> Any:
            return Engine(blob)

    class Engine:
        def __init__(self, blob: bytes) -> None:
            self.session = ort.InferenceSession(blob, providers=["CPUExecutionProvider"])
            self.names, self.num_io_tensors, self.places = ["x", "y"], 2, {}

        def get_tensor_name(self, index: int) -> str:
            return self.names[index]

        def get_tensor_mode(self, name: str) -> str:
            return "out" if name == "y" else "in"

        def get_tensor_dtype(self, name: str) -> str:
            return "float32"

        def create_execution_context(self) -> Engine:
            return self

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
            self.shape = shape

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (self.shape[0], 5)

        def set_tensor_address(self, name: str, address: int) -> None:
            self.places[name] = address

        def execute_async_v3(self, stream: int) -> bool:
            size = int(np.prod(self.shape))
            given = np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.places["x"])).reshape(self.shape)
            found = self.session.run(["y"], {"x": given})[0]
            ctypes.memmove(self.places["y"], found.ctypes.data, found.nbytes)
            return True

    for name in ("Logger", "Builder", "OnnxParser", "Runtime", "ProfilingVerbosity", "MemoryPoolType", "TensorIOMode"):
        setattr(trt, name, Anything)
    trt.NetworkDefinitionCreationFlag = type("Flag", (), {"STRONGLY_TYPED": 1})
    trt.nptype = np.dtype
    return trt
