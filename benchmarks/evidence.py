"""What gathering evidence and running on it cost: CPU seconds of whole processes, and peak resident memory.

    python benchmarks/evidence.py                # writes benchmarks/results/evidence.json

* ``statistics``: one pass over 512 images of Fashion-MNIST that sums up what prunable layers read, beside plain inference of
  the same images by onnxruntime; one thread, interleaved, the ratio of CPU times, for every model of ``benchmarks/models``;
* ``curve``: the whole error curve of structured OBS for a consumer of 512 x 512 x 3 x 3;
* ``resnet20``: a whole default run on 512 images of Fashion-MNIST;
* ``resnet50``: the same on a ResNet-50-shaped network and 128 images of 224 x 224, all of which calibrate and are judged.

``--only`` takes some of these and leaves what is written of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from compile_time import made, measured
from evidence_cases import write_images, write_resnet50
from fashion import INPUT, write_calibration
from shrinkc.runtimes.onnxruntime_cpu import OnnxRuntimeCpu, OnnxRuntimeSession

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.analysis.groups import analyse
from shrinkc.api import Activity, Consumer, RunConfig
from shrinkc.evidence.batching import batches_of
from shrinkc.evidence.data import Data
from shrinkc.evidence.elimination import greedily
from shrinkc.evidence.gathering import gather
from shrinkc.report import facts
from shrinkc.shapes import input_shapes

HERE = Path(__file__).parent
MODELS = ("resnet20", "mobilenetv2-like", "vgg16-bn-half")
IMAGES = 512
TARGETS = {
    "statistics_over_inference": 3.0,
    "curve_cpu_s": 60.0,
    "resnet20_cpu_s": 60.0,
    "resnet50_cpu_s": 600.0,
    "resnet50_peak_bytes": 2_000_000_000,
}


class OneThread(OnnxRuntimeCpu):
    """onnxruntime on one thread, whoever asks."""

    def load(self, model: Path | bytes, config: RunConfig) -> OnnxRuntimeSession:
        """A session of one thread."""
        return super().load(model, replace(config, threads=1))


def statistics_pass(name: str, images: Path, repeats: int) -> dict[str, Any]:
    """CPU seconds of inference and of the statistics pass in turns, on one core, and the median of their ratios."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    runtime = OneThread()
    model = shrinkc_ir.load(HERE / "models" / f"{name}.onnx")
    with np.load(images) as archive:
        data = Data({INPUT: archive[INPUT]}, None, images.name)
    shapes = {INPUT: (1, *data.inputs[INPUT].shape[1:])}
    analysis = analyse(model, input_shapes(model, shapes), registry.operator_rules())
    batches = batches_of(analysis, data)
    session = runtime.load(shrinkc_ir.loadable(model), RunConfig())
    pairs = []
    for _ in range(repeats + 1):
        plain = cpu_seconds(lambda: [session.run(batch) for batch in batches])
        gathered = cpu_seconds(lambda: gather(analysis, data, batches, runtime))
        pairs.append((plain, gathered))
    return summary(pairs[1:])  # the first warms up


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of the whole process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of the seconds and of the ratios, and the ratios' range."""
    ratios = [gathered / plain for plain, gathered in pairs]
    return {
        "inference_cpu_s": statistics.median(plain for plain, _ in pairs),
        "statistics_cpu_s": statistics.median(gathered for _, gathered in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def curve(channels: int, taps: int) -> dict[str, float]:
    """CPU seconds of a whole greedy elimination: correlated rectified inputs, random weights."""
    generator, columns = np.random.default_rng(0), channels * taps
    inputs = generator.standard_normal((2 * columns, columns), np.float32)
    shared = [generator.standard_normal(shape, np.float32) for shape in ((len(inputs), 64), (64, columns))]
    inputs += shared[0] @ shared[1] / 8
    np.maximum(inputs, 0, out=inputs)
    consumer = Consumer(
        name="y",
        weight=generator.standard_normal((channels, columns), np.float32),
        mean=inputs.mean(0, dtype=np.float64),
        gram=inputs.T @ inputs / len(inputs),
        rows=len(inputs),
        position=np.repeat(np.arange(channels), taps),
        taps=taps,
        activity=Activity(np.ones(channels), np.zeros(channels)),
    )
    del inputs
    return {"cpu_s": cpu_seconds(lambda: greedily([consumer], channels))}


def whole_run(model: Path, data: Path, *options: str) -> dict[str, Any]:
    """CPU seconds and peak memory of the program with everything it does by default."""
    output = data.with_name("small.onnx")
    cost = measured("compress", str(model), "--data", str(data), "-o", str(output), "--quiet", *options)
    report = json.loads(output.with_name("small.report.json").read_text(encoding="utf-8"))
    return {
        **cost,
        "macs_left": report["after"]["macs"] / report["before"]["macs"],
        "agreement": [output["cosine"] for output in report["quality"]["agreement"]],
        "samples": {"calibration": report["calibration"]["samples"], "judged": report["quality"]["samples"]},
    }


def resnet20(folder: Path) -> dict[str, Any]:
    """A whole run on Fashion-MNIST; a quarter of the images is held out."""
    made(write_calibration, folder / "images.npz", folder / "labels.npz", IMAGES, 0)
    return whole_run(HERE / "models" / "resnet20.onnx", folder / "images.npz")


def resnet50(folder: Path) -> dict[str, Any]:
    """A whole run on ResNet-50's shape."""
    model, images = folder / "resnet50.onnx", folder / "images.npz"
    size = made(write_resnet50, model)
    made(write_images, images, 128)
    return {**whole_run(model, images, "--eval-data", str(images)), "file_bytes": size}


def every_statistics_pass(folder: Path) -> dict[str, Any]:
    """All models, each in a process of its own."""
    images = folder / "images.npz"
    made(write_calibration, images, folder / "labels.npz", IMAGES, 0)
    return {name: made(statistics_pass, name, images, 5) for name in MODELS}


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "statistics": every_statistics_pass,
    "curve": lambda folder: made(curve, 512, 9),
    "resnet20": resnet20,
    "resnet50": resnet50,
}


def main() -> None:
    """Run what is asked for, print it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "evidence.json")
    args = parser.parse_args()
    os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})  # for the processes that are started
    results = json.loads(args.output.read_text(encoding="utf-8"))["results"] if args.output.exists() else {}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = CASES[name](Path(folder))
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        written = {"results": results, "targets": TARGETS, "machine": facts.machine(), "versions": facts.versions()}
        written["load_average"] = os.getloadavg()
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
