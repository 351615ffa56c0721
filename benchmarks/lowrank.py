"""Low-rank factors of trained models, judged on samples they have not seen.

    python benchmarks/lowrank.py        # writes benchmarks/results/lowrank.json

For every layer of every model in ``benchmarks/models`` and every rank: the error of the layer's outputs, as a share of their
variance, on test images: with factors from the weight alone (``svd``), as the BatchNormalization behind it scales it
(``bn-svd``), and from calibration images that the model was not trained on (``whitened-svd``).  Then whole models: accuracy on
the 10,000 test images, MACs and CPU time of ``--method lowrank`` and ``--method auto`` at a budget, with the layers that were
left whole as they gained no time; all else is as it is by default.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from compile_time import made, measured, resnet50
from fashion import INPUT, write_calibration, write_test

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.errors import BudgetError
from shrinkc.factorable import Candidate, Scope, candidates_in
from shrinkc.factors import Basis, LinearLayer, Truncated
from shrinkc.report import facts
from shrinkc.report.model import Report
from shrinkc.shapes import Shadow, input_shapes

FOLDER = Path(__file__).parent
METHODS = ("svd", "bn-svd", "whitened-svd")
BUDGET = "60%"
"""Of the whole models."""

WHOLE = (("lowrank", "svd"), ("lowrank", "whitened-svd"), ("auto", "whitened-svd"))
"""Method and factorization of the whole models."""

CALIBRATION = 2048
"""Images factors are found on, and as many test images single layers are judged on."""

Batches = Sequence[Mapping[str, np.ndarray]]


def batches_of(images: np.ndarray) -> Batches:
    """Samples in batches of 32."""
    return [{INPUT: images[start : start + 32]} for start in range(0, len(images), 32)]


def candidates(model: ir.Model, batches: Batches) -> dict[str, Candidate]:
    """Every layer of a model that could be factorised, by name."""
    forms = [registry.built("rewrites", name) for name in ("pointwise", "matrix")]
    scope = Scope(forms, registry.built("factorizations", "whitened-svd"))
    runtime = registry.load("runtimes", "onnxruntime-cpu")()
    found = candidates_in(model, Shadow.of(model, input_shapes(model)), scope, batches, runtime)
    return {candidate.name: candidate for candidate in found.candidates}


def held_out_errors(layer: LinearLayer, basis: Basis, judged: LinearLayer) -> np.ndarray:
    """Error by rank of factors found on one set of samples, on another one, the bias included."""
    if layer.outputs is None or judged.outputs is None:
        raise SystemExit(f"nothing is known of the outputs of {layer.name}")
    shares = Truncated(judged, basis).errors
    moved = judged.outputs.mean - layer.outputs.mean  # the bias makes up for the mean of the calibration images
    turned = np.einsum("gok,go->gk", basis.vectors * basis.gain[:, :, None], moved)
    left = basis.vectors / basis.gain[:, :, None] * turned[:, None, :]
    off = moved[:, :, None] - np.concatenate([np.zeros((*moved.shape, 1)), left.cumsum(2)], axis=2)
    energy = float(np.einsum("gii->", judged.outputs.covariance()))
    errors: np.ndarray = shares + np.square(off).sum((0, 1)) / energy
    return errors


def layer_rows(name: str, model: ir.Model, seen: Batches, unseen: Batches) -> list[dict[str, Any]]:
    """Errors of every layer at a quarter of the break-even rank, half of it and all, and at how many ranks whitening wins."""
    calibrated, judged = candidates(model, seen), candidates(model, unseen)
    rows = []
    for layer, judge in judged.items():
        own = calibrated[layer].layer
        curves = {m: held_out_errors(own, registry.built("factorizations", m).basis(own), judge.layer) for m in METHODS}
        full, even = judge.full_rank, judge.largest_rank
        # At full rank all of them are exact: what is left is rounding.
        wins = int((curves["whitened-svd"][1:full] < curves["svd"][1:full]).sum())
        shown = {rank: [round(float(curves[m][rank]), 6) for m in METHODS] for rank in (even // 4, even // 2, even) if rank}
        rows.append({"model": name, "layer": layer, "ranks": full - 1, "whitened_below_svd": wins, "errors_at": shown})
    return rows


def model_rows(name: str, path: Path, data: Path, test: Path, folder: Path) -> list[dict[str, Any]]:
    """A whole model at a budget, in several ways."""
    rows: list[dict[str, Any]] = []
    for method, factorization in WHOLE:
        started = time.process_time()
        settings: dict[str, Any] = {"method": method, "macs": BUDGET, "factorization": factorization}
        about = {"model": name, "budget": BUDGET, "method": method, "factorization": factorization}
        try:
            report = shrinkc.compress(path, output=folder / "small.onnx", data=data, eval_data=test, **settings)
        except BudgetError as error:
            rows.append({**about, "refused": str(error)})
            continue
        rows.append({**about, **found(report), "tool_cpu_s": round(time.process_time() - started, 1)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def found(report: Report) -> dict[str, Any]:
    """What one run left, and how fast that is."""
    latency = report.latency
    return {
        "macs_left": round(report.after.macs / report.before.macs, 4),
        "accuracy_before": report.quality.accuracy_before,
        "accuracy_after": report.quality.accuracy_after,
        "cpu_s_before": None if latency is None else latency.before.cpu_median_s,
        "cpu_s_after": None if latency is None else latency.after.cpu_median_s,
        "cpu_speedup": None if latency is None else round(latency.cpu_speedup, 3),
        "factorised": sum(not row.reason for row in report.factors),
        "left_whole_for_time": sum(bool(row.reason) and row.cpu_before_s is not None for row in report.factors),
        "worst_prediction": max(
            (abs(row.measured_error / row.predicted_error - 1) for row in report.factors if row.measured_error),
            default=0.0,
        ),
    }


def without_data() -> dict[str, float]:
    """CPU seconds and peak bytes of factorising a ResNet-50-shaped graph by its weights alone."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        made(resnet50, model)
        options = ["--method", "lowrank", "--macs", "60%", "--no-verify", "--no-latency", "--quiet"]
        return measured("compress", str(model), "-o", str(Path(folder) / "small.onnx"), *options)


def main() -> None:
    """Run everything, print it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", type=Path, default=sorted((FOLDER / "models").glob("*.onnx")))
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "lowrank.json")
    parser.add_argument("--layers-only", action="store_true", help="no whole models")
    args = parser.parse_args()
    layers: list[dict[str, Any]] = []
    models: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data, test = Path(folder) / "calibration.npz", Path(folder) / "test.npz"
        write_calibration(data, Path(folder) / "labels.npz", CALIBRATION, 0)
        write_test(test)
        seen, unseen = (batches_of(np.load(file)[INPUT][:CALIBRATION]) for file in (data, test))
        for path in args.models:
            model = shrinkc_ir.load(path)
            layers += layer_rows(path.stem, model, seen, unseen)
            models += [] if args.layers_only else model_rows(path.stem, path, data, test, Path(folder))
    summary = {
        "layers": len(layers),
        "ranks": sum(row["ranks"] for row in layers),
        "ranks_where_whitened_is_below_svd": sum(row["whitened_below_svd"] for row in layers),
    }
    report = {
        "samples": CALIBRATION,
        "methods": METHODS,
        "summary": summary,
        "resnet50_without_data": without_data(),
        "layers": layers,
        "models": models,
        "machine": facts.machine(),
        "versions": facts.versions(),
        "load_average": os.getloadavg(),
    }
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
