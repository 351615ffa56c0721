"""TensorRT 10 and 11, and TensorRT for RTX, in a process of its own; ``module`` in every request says which.

Networks are strongly typed: the precision is what the ONNX model says.  Builders of TensorRT need the card they build for;
those of TensorRT for RTX need none, and its parser is a check that runs anywhere.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Fields = dict[str, Any]
    Arrays = dict[str, np.ndarray[Any, Any]]

ENGINE, CACHE = "model.engine", "timing.cache"
INSPECTOR_TYPES = (
    ("bf", "bfloat16"),
    ("half", "float16"),
    ("fp16", "float16"),
    ("int8", "int8"),
    ("fp8", "float8"),
    ("float", "float32"),
    ("fp32", "float32"),
)
"""Words by which the inspector tells types, the more special ones first."""


def probe(request: Fields) -> Fields:
    """What can be imported here."""
    return {"version": importlib.import_module(request["module"]).__version__}


def logger_of(trt: Any) -> Any:
    """A logger that keeps what is worse than information."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(message)

    return Log()


def supports(request: Fields) -> Fields:
    """What the parser says of every node.  It is one parser family, not a proof for another version on another device."""
    trt = importlib.import_module(request["module"])
    log = logger_of(trt)
    builder = _builder(trt, log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    with open(request["model"], "rb") as stream:
        is_supported = parser.supports_model_v2(stream.read(), request["model"])
    refused = {row["index"]: row for row in _errors(parser)}
    return {
        "verdicts": [*refused.values(), *(row for row in _partition(parser) if row["index"] not in refused)],
        "note": "" if is_supported else "nodes beside a refused one are not imported, so nothing more is known of them",
    }


def _builder(trt: Any, log: Any) -> Any:
    """A builder; TensorRT gives none, by an error or by None, where there is no card."""
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError) as error:
        raise LookupError("no builder: " + ("; ".join(log.errors) or str(error))) from error
    if builder is None:
        raise LookupError("no builder: " + "; ".join(log.errors))
    return builder


def _errors(parser: Any) -> list[Fields]:
    return [_error(parser.get_error(index)) for index in range(parser.num_errors)]


def _error(error: Any) -> Fields:
    code = str(error.code()).rpartition(".")[2]
    return {"index": int(error.node()), "status": "unsupported", "reason": "{}: {}".format(code, error.desc())}


def _partition(parser: Any) -> list[Fields]:
    rows = []
    for index in range(parser.num_subgraphs):
        status = "supported" if parser.is_subgraph_supported(index) else "unknown"
        rows += [{"index": int(node), "status": status, "reason": ""} for node in parser.get_subgraph_nodes(index)]
    return rows


def convert(request: Fields) -> Fields:
    """Parse and build; a failure is a missing result, so the log says why."""
    trt = importlib.import_module(request["options"]["module"])
    log = logger_of(trt)
    builder = _builder(trt, log)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["model"]):
        reasons = ["node {index}: {reason}".format(**row) for row in _errors(parser)] or log.errors
        raise NotImplementedError("; ".join(reasons))
    config = _config(trt, builder, request)
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        raise RuntimeError("the builder gave no engine: " + "; ".join(log.errors))
    files = [ENGINE]
    _write(os.path.join(request["folder"], ENGINE), blob)
    cache = config.get_timing_cache() if request["options"].get("timing_cache") is not None else None
    if cache is not None:
        _write(os.path.join(request["folder"], CACHE), cache.serialize())
        files.append(CACHE)
    details = {"module": request["options"]["module"], "version": trt.__version__}
    return {"files": files, "warnings": log.warnings[:20], "details": details}


def _write(path: str, content: Any) -> None:
    with open(path, "wb") as stream:
        stream.write(content)


def _network_flags(trt: Any) -> int:
    """Strong typing: to be asked for in TensorRT 10, the only kind in 11."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None or int(trt.__version__.split(".")[0]) >= 11 else 1 << int(flag)


def _config(trt: Any, builder: Any, request: Fields) -> Any:
    options = request["options"]
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if "workspace_bytes" in options:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_bytes"])
    if options.get("sparse_weights"):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.get("timing_cache") is not None:
        config.set_timing_cache(config.create_timing_cache(_cache(options["timing_cache"])), False)
    wanted = options.get("compute_capabilities", ())
    if wanted:
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    return config


def _cache(path: str) -> bytes:
    """Timings of an earlier build; none where the file is not there yet."""
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as stream:
        return stream.read()


def load(request: Fields) -> Model:
    """Deserialise the engine, for which there must be a driver."""
    return Model(request)


class Model:
    """An engine, its context, and memory of the card for every tensor that goes in or out."""

    def __init__(self, request: Fields) -> None:
        self._trt = importlib.import_module(request["details"]["module"])
        self._cuda = Cuda()
        self._log = logger_of(self._trt)
        self._ports = request["signature"]
        self._runtime = self._trt.Runtime(self._log)
        with open(request["files"][0], "rb") as stream:
            self._engine = self._runtime.deserialize_cuda_engine(stream.read())
        if self._engine is None:
            raise LookupError("the engine cannot be loaded: " + "; ".join(self._log.errors))
        self._context = self._engine.create_execution_context()
        self._layers = self._inspected()
        self._arrays = {name: self._host_array(name) for name in self._names()}
        self._memory = {name: self._cuda.allocated(array.nbytes) for name, array in self._arrays.items()}
        for name, address in self._memory.items():
            self._context.set_tensor_address(name, address)
        self._stream = self._cuda.stream()

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]

    def _host_array(self, name: str) -> np.ndarray[Any, Any]:
        dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
        return np.zeros(tuple(self._context.get_tensor_shape(name)), dtype)

    def _inspected(self) -> list[Fields]:
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return layers_of(json.loads(text))

    def effective(self) -> Fields:
        """Types of the layers' outputs, as the engine's inspector tells them."""
        types = sorted({kind for layer in self._layers for kind in layer["types"]})
        return {
            "version": self._trt.__version__,
            "provider": "CUDA",
            "precision": types[0] if len(types) == 1 else "mixed" if types else "as in the model",
            "device": self._cuda.device_name(),
            "kernels": sorted({layer["kernel"] for layer in self._layers if layer["kernel"]}),
        }

    def bind(self, inputs: Arrays) -> None:
        """Copy the inputs to the card."""
        for port in self._ports["inputs"]:
            array = np.ascontiguousarray(inputs[port["name"]], self._arrays[port["name"]].dtype)
            self._cuda.to_card(self._memory[port["name"]], array)

    def execute(self) -> None:
        """Run to the end; copies to and from the card are not in it."""
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeError("the engine does not run: " + "; ".join(self._log.errors))
        self._cuda.wait(self._stream)

    def fetch(self) -> Arrays:
        """Copy the outputs from the card."""
        found = {}
        for port in self._ports["outputs"]:
            array = self._arrays[port["name"]]
            self._cuda.from_card(array, self._memory[port["name"]])
            found[port["name"]] = array.astype(port["dtype"])
        return found

    def profile(self, runs: int) -> list[Fields]:
        """Times of the engine's layers, the median over runs, with the ONNX nodes that its inspector names."""
        times: dict[str, list[float]] = {}

        class Profiler(self._trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self, base: Any) -> None:
                base.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms / 1e3)

        self.execute()
        self._context.profiler = Profiler(self._trt.IProfiler)
        for _ in range(runs):
            self.execute()
        known = {layer["name"]: layer for layer in self._layers}
        nothing: Fields = {"op_type": "", "kernel": "", "sources": []}
        return [
            {"name": name, "time_s": statistics.median(found), **_told(known.get(name, nothing))}
            for name, found in times.items()
        ]


def _told(layer: Fields) -> Fields:
    return {key: layer[key] for key in ("op_type", "kernel", "sources")}


def layers_of(information: Fields) -> list[Fields]:
    """Layers of an engine inspector's JSON, of TensorRT 10 (``Format/Datatype``) or 11 (``Format`` and ``DataType``).

    Engines built with less detail list names only; those have no types, kernels or sources.
    """
    return [_layer(entry) for entry in information.get("Layers", [])]


def _layer(entry: Any) -> Fields:
    if isinstance(entry, str):
        return {"name": entry, "op_type": "", "kernel": "", "sources": [], "types": []}
    parts = str(entry.get("Metadata") or "").split("[ONNX Layer: ")[1:]
    return {
        "name": entry.get("Name", ""),
        "op_type": entry.get("LayerType", ""),
        "kernel": str(entry.get("TacticName") or ""),
        "sources": [part.split("]")[0] for part in parts],
        "types": sorted({kind for tensor in entry.get("Outputs", []) for kind in _types(tensor)}),
    }


def _types(tensor: Any) -> list[str]:
    if not isinstance(tensor, dict):
        return []
    text = str(tensor.get("DataType") or tensor.get("Format/Datatype") or "")
    return [name for word, name in INSPECTOR_TYPES if word in text.lower()][:1]


class Cuda:
    """Memory and streams of the card, by NVIDIA's own bindings (package cuda-bindings)."""

    def __init__(self) -> None:
        self._api: Any = importlib.import_module("cuda.bindings.runtime")

    def _done(self, answer: Any) -> Any:
        code, *found = answer
        if int(code) != 0:
            raise LookupError("CUDA says {}".format(code))
        return found[0] if found else None

    def device_name(self) -> str:
        """Of the first card."""
        name = self._done(self._api.cudaGetDeviceProperties(0)).name
        return name.decode().rstrip("\0") if isinstance(name, bytes) else str(name)

    def allocated(self, size: int) -> int:
        """Address of that many bytes."""
        return int(self._done(self._api.cudaMalloc(max(1, size))))

    def stream(self) -> int:
        """A stream of its own."""
        return int(self._done(self._api.cudaStreamCreate()))

    def wait(self, stream: int) -> None:
        """Wait until all is done."""
        self._done(self._api.cudaStreamSynchronize(stream))

    def to_card(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Copy an array."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._done(self._api.cudaMemcpy(address, array.ctypes.data, array.nbytes, kind))

    def from_card(self, array: np.ndarray[Any, Any], address: int) -> None:
        """Fill an array."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._done(self._api.cudaMemcpy(array.ctypes.data, address, array.nbytes, kind))
