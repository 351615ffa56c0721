#!/usr/bin/env python3
"""Builds an engine from an ONNX model on this board, checks it, times it, and writes a JSON file to carry back.

Needs Python 3.8, numpy and NVIDIA's tensorrt (JetPack has it), 10.x or 11.x; nothing else.

    python3 tensorrt_on_board.py model.fp16.onnx reference.npz -o result.json

Networks are strongly typed: the precision is the one the ONNX file is written in, and casts and Q/DQ are where it says.
"""

import argparse
import ctypes
import hashlib
import json
import os
import platform
import subprocess
import time

import numpy as np

SCHEMA = "shrinkc.board/1"
TO_DEVICE, FROM_DEVICE = 1, 2


class Cuda:
    """The few functions of the CUDA runtime that are needed."""

    def __init__(self, library="libcudart.so"):
        self._library = ctypes.CDLL(library)
        self.stream = ctypes.c_void_p()
        self.call("cudaStreamCreate", ctypes.byref(self.stream))

    def call(self, name, *arguments):
        """Call a function; anything but success is an error."""
        code = getattr(self._library, name)(*arguments)
        if code:
            raise RuntimeError("{} failed with code {}".format(name, code))

    def allocate(self, size):
        """Address of so many bytes on the device."""
        address = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address

    def copy(self, destination, source, size, direction):
        """Copy between host and device, and wait."""
        self.call("cudaMemcpy", destination, source, ctypes.c_size_t(size), direction)

    def wait(self):
        """Wait until the stream is done."""
        self.call("cudaStreamSynchronize", self.stream)


def build(trt, model, inputs, engine, cache, workspace):
    """Serialised engine for inputs of these sizes, and the seconds it took."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    is_old = int(trt.__version__.split(".")[0]) < 11
    network = builder.create_network(1 << int(typed) if typed is not None and is_old else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(model):
        raise RuntimeError("; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace << 20)
    stored = read(cache) if os.path.exists(cache) else b""
    config.set_timing_cache(config.create_timing_cache(stored), False)
    config.add_optimization_profile(profile_for(builder, network, inputs))
    started = time.perf_counter()
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        raise RuntimeError("the builder gave no engine; its log says why")
    write(engine, bytes(blob))
    write(cache, bytes(config.get_timing_cache().serialize()))
    return bytes(blob), time.perf_counter() - started


def profile_for(builder, network, inputs):
    """What TensorRT wants to know of inputs that leave sizes free, or that are sizes themselves: those of the reference."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        given = inputs[tensor.name]
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, *[given.reshape(-1).tolist()] * 3)
        elif any(size < 0 for size in tensor.shape):
            profile.set_shape(tensor.name, *[tuple(given.shape)] * 3)
    return profile


class Runner:
    """A loaded engine with memory for every tensor that goes in or out."""

    def __init__(self, trt, cuda, blob, inputs):
        self._cuda, self._trt = cuda, trt
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self.engine = self._runtime.deserialize_cuda_engine(blob)
        self._context = self.engine.create_execution_context()
        self.buffers = {}
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        self.outputs = [name for name in names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        for name in names:
            if name not in self.outputs:
                self._context.set_input_shape(name, tuple(inputs[name].shape))
        for name in names:
            host = inputs.get(name)
            if host is None:
                host = np.empty(tuple(self._context.get_tensor_shape(name)))
            host = np.ascontiguousarray(host, dtype=trt.nptype(self.engine.get_tensor_dtype(name)))
            device = cuda.allocate(host.nbytes)
            if name not in self.outputs:
                cuda.copy(device, host.ctypes.data_as(ctypes.c_void_p), host.nbytes, TO_DEVICE)
            self._context.set_tensor_address(name, device.value or 0)
            self.buffers[name] = (host, device)

    def run(self):
        """One run, finished when this returns."""
        if not self._context.execute_async_v3(self._cuda.stream.value or 0):
            raise RuntimeError("the engine refuses to run")
        self._cuda.wait()

    def fetch(self):
        """Outputs by name."""
        for name in self.outputs:
            host, device = self.buffers[name]
            self._cuda.copy(host.ctypes.data_as(ctypes.c_void_p), device, host.nbytes, FROM_DEVICE)
        return {name: self.buffers[name][0] for name in self.outputs}


def timed(run, warmup_s, duration_s):
    """Seconds of single runs, after a warm-up."""
    started = time.perf_counter()
    while time.perf_counter() - started < warmup_s:
        run()
    samples = []  # type: list[float]
    started = time.perf_counter()
    while time.perf_counter() - started < duration_s or len(samples) < 10:
        before = time.perf_counter()
        run()
        samples.append(time.perf_counter() - before)
    half = len(samples) // 2
    return {
        "median": float(np.median(samples)),
        "p90": float(np.percentile(samples, 90)),
        "least": float(min(samples)),
        "runs": len(samples),
        "drift": float(np.median(samples[half:]) / np.median(samples[:half]) - 1),
        "how": "wall time around one execution and its synchronisation; copies are not in it",
    }


def compared(expected, found):
    """Largest error of every output, absolute and over the largest value expected."""
    rows = {}
    for name, wanted in expected.items():
        error = float(np.abs(found[name].astype(np.float64).reshape(wanted.shape) - wanted).max())
        rows[name] = {"max_abs": error, "relative": error / max(float(np.abs(wanted).max()), 1e-12)}
    return rows


def facts():
    """What this board is, as far as it tells."""
    found = {"machine": platform.machine(), "system": platform.platform()}
    for name, path in (("model", "/proc/device-tree/model"), ("jetpack", "/etc/nv_tegra_release")):
        if os.path.exists(path):
            found[name] = read(path).decode("utf-8", "replace").strip("\x00\n ")
    try:
        done = subprocess.run(["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20, check=False)
        found["power_mode"] = done.stdout.decode("utf-8", "replace").strip()
    except (OSError, subprocess.SubprocessError):
        found["power_mode"] = "not known: nvpmodel cannot be run"
    return found


def read(path):
    """Bytes of a file."""
    with open(path, "rb") as stream:
        return stream.read()


def write(path, content):
    """Write bytes."""
    with open(path, "wb") as stream:
        stream.write(content)


def main(arguments=None):
    """Build, check, time, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("reference", help=".npz of in.NAME and out.NAME arrays")
    parser.add_argument("-o", "--output", default="result.json")
    parser.add_argument("--engine", default="model.engine")
    parser.add_argument("--timing-cache", default="timing.cache")
    parser.add_argument("--workspace-mib", type=int, default=0)
    parser.add_argument("--warmup-s", type=float, default=1.0)
    parser.add_argument("--duration-s", type=float, default=5.0)
    given = parser.parse_args(arguments)

    import tensorrt as trt

    with np.load(given.reference, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    inputs = {name[3:]: array for name, array in arrays.items() if name.startswith("in.")}
    expected = {name[4:]: array for name, array in arrays.items() if name.startswith("out.")}
    blob, seconds = build(trt, given.model, inputs, given.engine, given.timing_cache, given.workspace_mib)
    runner = Runner(trt, Cuda(), blob, inputs)
    runner.run()
    result = {
        "schema": SCHEMA,
        "model": os.path.basename(given.model),
        "model_sha256": hashlib.sha256(read(given.model)).hexdigest(),
        "reference_sha256": hashlib.sha256(read(given.reference)).hexdigest(),
        "tensorrt": trt.__version__,
        "board": facts(),
        "engine_bytes": len(blob),
        "engine_sha256": hashlib.sha256(blob).hexdigest(),
        "build_s": seconds,
        "outputs": compared(expected, runner.fetch()),
        "latency_s": timed(runner.run, given.warmup_s, given.duration_s),
    }
    text = json.dumps(result, indent=1)
    write(given.output, text.encode())
    print(text)


if __name__ == "__main__":
    main()
