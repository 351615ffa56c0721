"""ncnn in a process of its own; models come through the program in the pnnx package, never its Python part."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Fields = dict[str, Any]
    Arrays = dict[str, np.ndarray[Any, Any]]

STEM = "model"  # pnnx changes dots and other characters of a file's name
TYPES = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "uint8": "u8", "int8": "i8", "bool": "i8"}
SUSPECT = ("ignore ", "unsupported", "not supported", "failed")


def probe(request: Fields) -> Fields:
    """What can be imported here."""
    import ncnn

    return {"version": ncnn.__version__}


def convert(request: Fields) -> Fields:
    """Have pnnx write ``model.ncnn.param`` and ``model.ncnn.bin``."""
    folder = request["folder"]
    source = os.path.join(folder, STEM + ".onnx")
    shutil.copyfile(request["model"], source)
    ports = request["signature"]["inputs"]
    shapes = ",".join("[{}]{}".format(",".join(map(str, port["shape"])), TYPES.get(port["dtype"], "f32")) for port in ports)
    command = [_program(), source, "inputshape=" + shapes, "fp16={}".format(int(request["precision"] == "float16"))]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    log = done.stdout.decode(errors="replace").splitlines()
    print("\n".join(log))
    os.remove(source)
    if done.returncode:
        raise RuntimeError("pnnx ended with exit code {}: {}".format(done.returncode, " | ".join(log[-3:])))
    return {
        "files": [STEM + ".ncnn.param", STEM + ".ncnn.bin"],
        "warnings": [line.strip() for line in log if any(word in line.lower() for word in SUSPECT)][:20],
        "command": ["pnnx", "model.onnx", *command[2:]],
    }


def _program() -> str:
    """Program inside the wheel, found without importing the package."""
    spec = importlib.util.find_spec("pnnx")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("pnnx is not installed")
    return os.path.join(spec.submodule_search_locations[0], "pnnx")


def load(request: Fields) -> Model:
    """Load parameters and weights; ncnn tells failure by a number."""
    return Model(request)


class Model:
    """A net, and the extractor of the last run."""

    def __init__(self, request: Fields) -> None:
        import ncnn

        self._ncnn = ncnn
        self._ports, self._precision = request["signature"], request["precision"]
        for port in self._ports["inputs"]:
            if port["shape"] and port["shape"][0] != 1:
                raise NotImplementedError("ncnn has no batch axis; the input {} is {}".format(port["name"], port["shape"]))
        self._net = ncnn.Net()
        _set(self._net.opt, request)
        for call, file in zip((self._net.load_param, self._net.load_model), request["files"]):
            if call(file) != 0:
                raise RuntimeError("ncnn cannot load " + os.path.basename(file))
        self._mats: list[Any] = []
        self._found: list[Any] = []

    def effective(self) -> Fields:
        """Version; the types are those the options allow."""
        return {"version": self._ncnn.__version__, "provider": "CPU", "precision": self._precision}

    def bind(self, inputs: Arrays) -> None:
        """Make ncnn's arrays, without the batch axis; they do not own their memory, so the arrays are kept."""
        self._arrays = [_fitting(inputs[port["name"]]) for port in self._ports["inputs"]]
        self._mats = [_mat(self._ncnn, array) for array in self._arrays]

    def execute(self) -> None:
        """Compute all outputs."""
        extractor = self._net.create_extractor()
        for index, mat in enumerate(self._mats):
            _check(extractor.input("in{}".format(index), mat), "in{}".format(index))
        self._found = []
        for index in range(len(self._ports["outputs"])):
            code, mat = extractor.extract("out{}".format(index))
            _check(code, "out{}".format(index))
            self._found.append(mat)

    def fetch(self) -> Arrays:
        """Outputs under ONNX's names, the batch axis put back."""
        ports = self._ports["outputs"]
        return {port["name"]: _restored(np.array(mat), port) for port, mat in zip(ports, self._found)}


def _set(options: Any, request: Fields) -> None:
    is_half = request["precision"] == "float16"
    options.num_threads = max(1, request["threads"])
    options.openmp_blocktime = 20 if request["is_spinning"] else 0
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = is_half
    options.use_bf16_storage = request["precision"] == "bfloat16"


def _check(code: int, blob: str) -> None:
    if code != 0:
        raise RuntimeError("ncnn cannot compute {} (code {})".format(blob, code))


def _fitting(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What ncnn takes: it computes on 32-bit numbers."""
    kind = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int32
    return np.ascontiguousarray(array.astype(kind, copy=False))


def _mat(ncnn: Any, array: np.ndarray[Any, Any]) -> Any:
    return ncnn.Mat(array, batch_index=0) if array.ndim == 4 else ncnn.Mat(array[0] if array.ndim else array)


def _restored(array: np.ndarray[Any, Any], port: Fields) -> np.ndarray[Any, Any]:
    if port["shape"] is not None and array.size == np.prod(port["shape"], dtype=int):
        array = array.reshape(port["shape"])
    elif port["shape"] is not None:
        raise RuntimeError("ncnn gives {} for {}, {} expected".format(list(array.shape), port["name"], port["shape"]))
    else:
        array = array[None]
    return array.astype(port["dtype"], copy=False)
