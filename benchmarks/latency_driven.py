"""What a budget of time is for: accuracy by time of trained models cut by time and by MACs, on onnxruntime's CPU provider.

    python benchmarks/latency_driven.py                                        # writes benchmarks/results/latency_driven.json
    python benchmarks/latency_driven.py --work FOLDER --steps layers shares    # on a quiet machine, minutes each
    python benchmarks/latency_driven.py --work FOLDER --steps cuts             # on a busy one; an hour, can be interrupted

``layers`` times the layers of every model; ``cuts`` makes the smaller models, on 2048 unlabelled images; ``shares`` times each
in turns with its original and counts what it gets right of 10,000 test images.  What is compared is the time that one way of
choosing channels needs for an accuracy, by interpolation.  Budgets of MACs come twice: with the multiples of channels that the
target likes, which is knowledge of its time already, and without (``any_width``).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fashion
import numpy as np
import score
from latency import QUIET, ROOT, opened, runtime, share_of_graphs

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc import target, timing
from shrinkc.api import RunConfig
from shrinkc.errors import BudgetError
from shrinkc.log import Silent
from shrinkc.report import facts

TARGET, GOAL = "x86-avx512", 0.10
TRAINED = ("mobilenetv2-like", "resnet20", "vgg16-bn-half")
SHARES = (0.8, 0.65, 0.5, 0.4, 0.3, 0.25, 0.2)
DROPS = (0.005, 0.01, 0.02, 0.04)
"""Losses of accuracy at which times are compared: where nearly nothing is lost yet, the noise of 10,000 images would decide."""

CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "any_width": ("macs", {"round_to": 1}),
    "macs": ("macs", {}),
    "latency": ("latency", {}),
}
"""Kind of budget, and further settings."""

CALIBRATION = 2048
STEPS = ("layers", "cuts", "shares")

Point = dict[str, float]


def layers(name: str, folder: Path) -> None:
    """Time the layers of a model."""
    timing.timed(
        opened(source_of(name)),
        target.load(TARGET),
        runtime(),
        RunConfig(),
        timing.Sources(None, folder / "cache"),
        Silent(),
    )


def cuts(name: str, folder: Path, shares: Sequence[float], settings: dict[str, Any]) -> None:
    """Make the smaller models that are not there yet."""
    if not (folder / "calibration.npz").exists():
        fashion.write_calibration(folder / "calibration.npz", folder / "unused.npz", CALIBRATION, 0)
    for share in shares:
        for curve, (budget, own) in CURVES.items():
            output = cut_of(name, folder, curve, share)
            if not output.exists():
                cut(source_of(name), output, {**own, **settings, budget: f"{share:.0%}"})


def cut(source: Path, output: Path, settings: dict[str, Any]) -> None:
    """Make one smaller model, unless floors of the groups bind."""
    folder = output.parent
    try:
        shrinkc.compress(
            source,
            output=output,
            data=folder / "calibration.npz",
            target=TARGET,
            latency_cache=folder / "cache" if "latency" in settings else None,
            measure_latency=False,
            verify=False,
            **settings,
        )
        print("made", output.stem, flush=True)
    except BudgetError as error:
        print(output.stem, "is out of reach:", error.where, flush=True)


def judged(name: str, folder: Path, shares: Sequence[float]) -> dict[str, Any]:
    """Accuracy and time of every cut of a model that there is."""
    if not (folder / "test.npz").exists():
        fashion.write_test(folder / "test.npz")
    load = os.getloadavg()[0]
    dense = accuracy_of(source_of(name), folder)
    made = {curve: [cut_of(name, folder, curve, share) for share in shares] for curve in CURVES}
    points = {curve: [point(name, path, folder) for path in paths if path.exists()] for curve, paths in made.items()}
    gained = {curve: gains(dense, points[curve], points["latency"]) for curve in CURVES if curve != "latency"}
    is_contended = max(load, os.getloadavg()[0]) > QUIET
    return {"accuracy": dense, **points, "gains": gained, "load_average": load, "is_contended": is_contended}


def point(name: str, path: Path, folder: Path) -> Point:
    """One cut."""
    source, report = source_of(name), json.loads(path.with_suffix(".report.json").read_text(encoding="utf-8"))
    made = {
        "asked": float(path.stem.rsplit("-", 1)[1]) / 100,
        "accuracy": accuracy_of(path, folder),
        "time_share": share_of_graphs(opened(source), shrinkc_ir.load(source), shrinkc_ir.load(path)),
        "macs_share": report["after"]["macs"] / report["before"]["macs"],
    }
    print(path.stem, made, flush=True)
    return made


def source_of(name: str) -> Path:
    """File of a trained model."""
    return ROOT / "benchmarks" / "models" / f"{name}.onnx"


def cut_of(name: str, folder: Path, curve: str, share: float) -> Path:
    """File of a smaller model."""
    return folder / f"{name}-{curve}-{100 * share:g}.onnx"


def accuracy_of(model: Path, folder: Path) -> float:
    """Top-1 accuracy on the test images."""
    with np.load(folder / "test.npz") as test:
        return score.accuracy(model, fashion.INPUT, test[fashion.INPUT], test["labels"])


def gains(dense: float, others: list[Point], by_time: list[Point]) -> dict[str, float]:
    """Time that cuts by time save against others, by the accuracy that both may lose; where both curves reach."""
    times = {f"{100 * drop:g} points": [time_at(dense - drop, points) for points in (others, by_time)] for drop in DROPS}
    return {drop: 1 - own / other for drop, (other, own) in times.items() if not (np.isnan(own) or np.isnan(other))}


def time_at(accuracy: float, points: list[Point]) -> float:
    """Share of the time at which a curve reaches an accuracy, between its points; nan where it does not.

    Points that are slower than another and no better are not of the curve: nobody would take them.
    """
    curve: list[Point] = []
    for point in sorted(points, key=lambda point: point["time_share"]):
        if not curve or point["accuracy"] > curve[-1]["accuracy"]:
            curve.append(point)
    times, accuracies = ([point[name] for point in curve] for name in ("time_share", "accuracy"))
    return float(np.interp(accuracy, accuracies, times, np.nan, np.nan)) if curve else np.nan


def main() -> None:
    """Do the steps that were asked for, for every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=TRAINED, default=TRAINED)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--work", type=Path, help="folder that keeps layer times and smaller models")
    parser.add_argument("--quick", action="store_true", help="few cuts, a simpler repair: shows that it works")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "latency_driven.json")
    given = parser.parse_args()
    shares = SHARES[1::2] if given.quick else SHARES
    results = json.loads(given.out.read_text())["results"] if given.out.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        folder.mkdir(exist_ok=True)
        for name in given.models:
            if "layers" in given.steps:
                layers(name, folder)
            if "cuts" in given.steps:
                cuts(name, folder, shares, {"compensation": "refit"} if given.quick else {})
            if "shares" in given.steps:
                results[name] = judged(name, folder, shares)
                made = {"results": results, "goal": GOAL, "machine": facts.machine(), "versions": facts.versions()}
                given.out.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
