"""Stands in for TensorRT: takes the calls its documentation lists, in the order it wants, and computes with onnxruntime.

It says nothing about TensorRT's numbers or times; it shows that the adapter asks for the right things in the right order.
``FAKE_TENSORRT_VERSION`` makes it 10.x or 11.x; ``FAKE_TENSORRT`` can make it ``without-card`` or ``refusing``.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime

__version__ = os.environ["FAKE_TENSORRT_VERSION"]
MOOD = os.environ.get("FAKE_TENSORRT", "")
MAJOR = int(__version__.split(".")[0])


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class IProfiler:
    pass


class LayerInformationFormat:
    JSON = "json"


class ProfilingVerbosity:
    DETAILED = "detailed"


class BuilderFlag:
    SPARSE_WEIGHTS = "sparse"


class MemoryPoolType:
    WORKSPACE = "workspace"


class NetworkDefinitionCreationFlag:
    pass


if MAJOR < 11:
    NetworkDefinitionCreationFlag.STRONGLY_TYPED = 2


def nptype(name):
    return np.dtype(name)


class Network:
    def __init__(self, flags):
        self.flags, self.model = flags, None


class Config:
    def __init__(self):
        self.calls, self.cache, self.profiling_verbosity = [], None, None

    def set_memory_pool_limit(self, pool, size):
        self.calls.append(["workspace", size])

    def set_flag(self, flag):
        self.calls.append(["flag", flag])

    def create_timing_cache(self, content):
        return Cache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache

    def get_timing_cache(self):
        return self.cache


class Cache:
    def __init__(self, content):
        self.content = bytes(content)

    def serialize(self):
        return self.content + b"+"


class Builder:
    def __init__(self, logger):
        self.logger = logger
        if MOOD == "without-card":
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def build_serialized_network(self, network, config):
        assert network.flags == (4 if MAJOR < 11 else 0), "networks must be strongly typed"
        if MOOD == "refusing":
            self.logger.log(ILogger.ERROR, "Could not find any implementation for node Conv_0")
            return None
        plan = {"model": network.model, "calls": config.calls, "verbosity": config.profiling_verbosity}
        return json.dumps(plan).encode()


class OnnxParser:
    num_errors = num_subgraphs = 0

    def __init__(self, network, logger):
        self.network = network

    def parse_from_file(self, path):
        self.network.model = Path(path).read_bytes().hex()
        return True

    def supports_model_v2(self, content, path):
        return True


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, blob):
        return Engine(json.loads(blob))


class Inspector:
    def get_engine_information(self, form):
        kind = {"Format/Datatype": "Half"} if MAJOR < 11 else {"Format": "Row major linear", "DataType": "Half"}
        tensors = {"Bindings": ["image", "logits"]} if MAJOR < 11 else {"I/O Tensors": [{"Name": "image"}]}
        layer = {
            "Name": "stem + relu",
            "LayerType": "CaskConvolution",
            "TacticName": "sm80_xmma_fprop",
            "Metadata": "[ONNX Layer: /stem/Conv]\x1f[ONNX Layer: /stem/Relu]",
            "Outputs": [{"Name": "a", **kind}],
        }
        return json.dumps({"Layers": [layer], **tensors})


class Engine:
    def __init__(self, plan):
        self.session = onnxruntime.InferenceSession(bytes.fromhex(plan["model"]), providers=["CPUExecutionProvider"])
        self.ports = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.num_io_tensors = len(self.ports)

    def get_tensor_name(self, index):
        return self.ports[index].name

    def get_tensor_dtype(self, name):
        return {"tensor(float)": "float32", "tensor(int64)": "int64"}[next(p.type for p in self.ports if p.name == name)]

    def create_engine_inspector(self):
        return Inspector()

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.addresses, self.profiler = engine, {}, None

    def get_tensor_shape(self, name):
        return next(port.shape for port in self.engine.ports if port.name == name)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def _array(self, port):
        dtype = nptype(self.engine.get_tensor_dtype(port.name))
        size = int(np.prod(port.shape)) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self.addresses[port.name])
        return np.frombuffer(memory, dtype).reshape(port.shape)

    def execute_async_v3(self, stream):
        session = self.engine.session
        found = session.run(None, {port.name: self._array(port) for port in session.get_inputs()})
        for port, array in zip(session.get_outputs(), found, strict=True):
            self._array(port)[...] = array
        if self.profiler is not None:
            self.profiler.report_layer_time("stem + relu", 2.0)
        return True
