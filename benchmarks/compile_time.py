"""Time and memory of shrinkc itself: whole processes, CPU seconds and peak resident memory.

    python benchmarks/compile_time.py            # writes benchmarks/results/compile_time.json

* a ResNet-50-shaped model (25.6 M parameters, 53 convolutions): analysis, pruning and saving, without the proof;
* legacy-style graphs of growing length (Identity-shared biases, shape arithmetic): analysis must be linear in nodes;
* ``shrinkc --help``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shrinkc.report import facts

SHRINKC = str(Path(sys.executable).with_name("shrinkc"))
TARGETS = {"resnet50_cpu_s": 4.0, "resnet50_peak_over_file": 4.0, "nodes_3500_cpu_s": 3.0, "help_wall_s": 0.3}


class Graph:
    """Just enough of a builder."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def tensor(self, array: np.ndarray) -> str:
        """Store an initializer."""
        name = f"t{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Append a node."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}{len(self.nodes)}", **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, k: int, stride: int = 1) -> str:
        """Convolution with bias."""
        weight = self.tensor(
            self.random.standard_normal((outputs, inputs, k, k), np.float32) * np.float32(np.sqrt(2 / (inputs * k * k)))
        )
        bias = self.tensor(self.random.standard_normal(outputs, np.float32))
        return self.node("Conv", x, weight, bias, pads=[k // 2] * 4, strides=[stride] * 2, kernel_shape=[k, k])

    def save(self, output: str, path: Path) -> int:
        """Write the model; returns its bytes."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "benchmark", inputs, outputs, self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(path))
        return path.stat().st_size


def resnet50(path: Path, g: Graph | None = None) -> int:
    """Bottleneck ResNet with the widths and depths of He et al. 2016."""
    g = g or Graph()
    x = g.node("MaxPool", g.node("Relu", g.conv("x", 3, 64, 7, 2)), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, outer = 64 << stage, 256 << stage
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            y = g.node("Relu", g.conv(x, width, inner, 1))
            y = g.conv(g.node("Relu", g.conv(y, inner, inner, 3, stride)), inner, outer, 1)
            short = g.conv(x, width, outer, 1, stride) if block == 0 else x
            x, width = g.node("Relu", g.node("Add", y, short)), outer
    pooled = g.node("Flatten", g.node("GlobalAveragePool", x))
    head = g.tensor(g.random.standard_normal((1000, 2048), np.float32))
    return g.save(g.node("Gemm", pooled, head, g.tensor(np.zeros(1000, np.float32)), transB=1), path)


def long_graph(nodes: int, path: Path) -> int:
    """Residual chain in the style of legacy exports: shared biases behind Identity, reshapes by computed shapes."""
    g = Graph()
    shared = g.tensor(np.zeros(16, np.float32))
    zero, tail = g.tensor(np.int64(0)), g.tensor(np.asarray([16, 56, 56], np.int64))
    axis = g.tensor(np.asarray([0], np.int64))
    x = g.conv("x", 3, 16, 4, 4)
    x = g.node("Reshape", x, g.tensor(np.asarray([0, 16, 57, 57], np.int64)))
    x = g.node("AveragePool", x, kernel_shape=[2, 2])
    while len(g.nodes) < nodes:
        weight = g.tensor(g.random.standard_normal((16, 16, 1, 1), np.float32) / 4)
        y = g.node("Relu", g.node("Conv", x, weight, g.node("Identity", shared)))
        batch = g.node("Unsqueeze", g.node("Gather", g.node("Shape", y), zero, axis=0), axis)
        y = g.node("Reshape", y, g.node("Concat", batch, tail, axis=0))
        x = g.node("Add", x, y)
    return g.save(x, path)


def made(build: Callable[..., int], *arguments: object) -> int:
    """Build a model in a process of its own: a child's peak memory starts at its parent's size when it forks."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(build, *arguments).result()


def measured(*arguments: str) -> dict[str, float]:
    """CPU and wall seconds and peak resident bytes of one process."""
    started = time.perf_counter()
    process = subprocess.Popen([SHRINKC, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"shrinkc {' '.join(arguments)} exited with {process.returncode}")
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - started,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def best(repeats: int, *arguments: str) -> dict[str, float]:
    """Smallest of several processes, number by number."""
    runs = [measured(*arguments) for _ in range(repeats)]
    return {key: min(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    """Run everything, print it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "compile_time.json")
    args = parser.parse_args()
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        model, pruned = Path(folder) / "model.onnx", Path(folder) / "pruned.onnx"
        size = made(resnet50, model)
        options = ["--prune-ratio", "0.5", "--no-verify", "--no-latency", "--quiet"]
        run = best(args.repeats, "compress", str(model), "-o", str(pruned), *options)
        results["resnet50"] = {**run, "file_bytes": size, "peak_over_file": run["peak_bytes"] / size}
        surgery = best(args.repeats, "compress", str(model), "-o", str(pruned), *options, "--no-optimize")
        results["resnet50_surgery_only"] = {**surgery, "peak_over_file": surgery["peak_bytes"] / size}
        lengths = {}
        for nodes in (875, 1750, 3500, 7000):
            made(long_graph, nodes, model)
            lengths[nodes] = best(args.repeats, "inspect", str(model), "--quiet")
        results["inspect_by_nodes"] = lengths
    results["help"] = best(args.repeats, "--help")
    results["targets"] = TARGETS
    report = {"results": results, "machine": facts.machine(), "versions": facts.versions(), "load_average": os.getloadavg()}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
