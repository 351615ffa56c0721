"""Large inputs: how analysis grows with the graph, and how much memory a model above 2 GB takes.

    python benchmarks/scale.py                   # writes benchmarks/results/scale.json

* legacy-style graphs of up to 10,000 nodes: ``shrinkc inspect``, CPU seconds;
* VGG's 25088 x 4096 layer behind a Flatten: the analysis alone, in this process;
* a transformer with weights in an external file above 2 GB: pruned and saved without the proof, peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from compile_time import Graph, best, long_graph, made, measured
from onnx import TensorProto, helper

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.analysis.groups import analyse
from shrinkc.report import facts
from shrinkc.shapes import input_shapes

TARGETS = {"nodes_10000_cpu_s": 10.0, "flatten_analysis_s": 1.0, "transformer_peak_over_file": 1.5}

WIDTH, FEED_FORWARD, HEADS, LAYERS = 2048, 8192, 16, 11


class Stored:
    """Weights written straight into one external file; nothing is kept in memory."""

    def __init__(self, data: Path) -> None:
        self.data, self.file = data, data.open("wb")
        self.tensors: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.block = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32) * 0.02

    def weight(self, *shape: int) -> str:
        """Random weights; the same numbers over again, shifted, as drawing billions takes minutes."""
        size, offset = int(np.prod(shape)), self.file.tell()
        shift = len(self.tensors) * 7919 % len(self.block)
        for start in range(0, size, len(self.block)):
            np.roll(self.block, shift + start)[: min(len(self.block), size - start)].tofile(self.file)
        tensor = onnx.TensorProto(name=f"t{len(self.tensors)}", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.data.name), ("offset", str(offset)), ("length", str(size * 4))):
            tensor.external_data.add(key=key, value=value)
        self.tensors.append(tensor)
        return tensor.name

    def ints(self, *values: int) -> str:
        """A small stored list."""
        self.tensors.append(helper.make_tensor(f"t{len(self.tensors)}", TensorProto.INT64, [len(values)], values))
        return self.tensors[-1].name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Append a node."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}{len(self.nodes)}", **attributes))
        return name

    def heads(self, x: str) -> str:
        """Projection, split into heads."""
        y = self.node("Reshape", self.node("MatMul", x, self.weight(WIDTH, WIDTH)), self.ints(0, 0, HEADS, -1))
        return self.node("Transpose", y, perm=[0, 2, 1, 3])

    def layer(self, x: str) -> str:
        """One encoder layer."""
        y = self.node("LayerNormalization", x, self.weight(WIDTH), self.weight(WIDTH))
        q, k, v = (self.heads(y) for _ in range(3))
        scores = self.node("Softmax", self.node("MatMul", q, self.node("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
        y = self.node("Transpose", self.node("MatMul", scores, v), perm=[0, 2, 1, 3])
        y = self.node("Reshape", y, self.ints(0, 0, -1))
        x = self.node("Add", x, self.node("MatMul", y, self.weight(WIDTH, WIDTH)))
        y = self.node("LayerNormalization", x, self.weight(WIDTH), self.weight(WIDTH))
        y = self.node("Relu", self.node("MatMul", y, self.weight(WIDTH, FEED_FORWARD)))
        return self.node("Add", x, self.node("MatMul", y, self.weight(FEED_FORWARD, WIDTH)))


def transformer(path: Path) -> int:
    """Write the model and its data; returns the bytes of both."""
    stored = Stored(path.with_suffix(".data"))
    x = "x"
    for _ in range(LAYERS):
        x = stored.layer(x)
    stored.file.close()
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        stored.nodes,
        "transformer",
        [value("x", TensorProto.FLOAT, ["n", 128, WIDTH])],
        [value(x, TensorProto.FLOAT, None)],
        stored.tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path.stat().st_size + stored.data.stat().st_size


def vgg_head(path: Path) -> int:
    """A convolution, Flatten and the first linear layer of VGG."""
    g = Graph()
    x = g.node("Relu", g.conv("x", 3, 512, 1, 32))
    first = g.tensor(np.zeros((4096, 25088), np.float32))
    y = g.node("Relu", g.node("Gemm", g.node("Flatten", x), first, g.tensor(np.zeros(4096, np.float32)), transB=1))
    return g.save(g.node("Gemm", y, g.tensor(np.zeros((10, 4096), np.float32)), transB=1), path)


def flatten_analysis(path: Path, repeats: int) -> float:
    """Seconds of the analysis, the smallest of several."""
    rules, seconds = registry.operator_rules(), []
    for _ in range(repeats):
        model = shrinkc_ir.load(path)
        started = time.perf_counter()
        analyse(model, input_shapes(model), rules)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Run everything, print it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "scale.json")
    args = parser.parse_args()
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        model, pruned = Path(folder) / "model.onnx", Path(folder) / "pruned.onnx"
        lengths = {}
        for nodes in (2500, 5000, 10_000):
            made(long_graph, nodes, model)
            lengths[nodes] = best(args.repeats, "inspect", str(model), "--quiet")
        results["inspect_by_nodes"] = lengths
        made(vgg_head, model)
        results["flatten_analysis_s"] = flatten_analysis(model, args.repeats)
        size = made(transformer, model)
        options = ["--prune-ratio", "0.5", "--no-verify", "--no-latency", "--quiet"]
        run = measured("compress", str(model), "-o", str(pruned), *options)
        results["transformer"] = {**run, "file_bytes": size, "peak_over_file": run["peak_bytes"] / size}
    results["targets"] = TARGETS
    report = {"results": results, "machine": facts.machine(), "versions": facts.versions(), "load_average": os.getloadavg()}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
