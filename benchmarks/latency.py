"""Latency on onnxruntime's CPU provider, one thread: what a cut gains, what a forecast is worth, what a budget of time is for.

    python benchmarks/latency.py                         # writes benchmarks/results/latency.json; tens of minutes
    python benchmarks/latency.py --only halving --models vgg11
    python benchmarks/latency.py --quick                 # shows that it works

* halving: half of the MACs removed by magnitude; time as a share of the original's;
* prediction: forecast against measurement of random plans, the forecast scaled by the original alone, the measurement taken in
  turns with the original;
* driven: trained models cut with budgets of time and of MACs, on 2048 unlabelled images; the times that they need for the same
  accuracy on 10,000 test images, by interpolation.  Budgets of MACs once with the multiples that the target likes, which is
  knowledge of its time already, and once without (``any_width``).

Times are CPU times of the process, the least of short blocks that take turns, which a busy machine disturbs little; the load is
written beside them, and results taken above a load of one are marked contended.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fashion
import numpy as np
import onnx_ir as ir
import score
from latency_models import MODELS

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc import planning, recipe_files, registry, target, timing
from shrinkc.allocate import Allocating, Limits
from shrinkc.analysis.groups import BoolArray
from shrinkc.api import RunConfig, RuntimeAdapter
from shrinkc.errors import BudgetError
from shrinkc.latency import stopwatch as stopwatches
from shrinkc.latency.stopwatch import InProcess
from shrinkc.log import Silent
from shrinkc.opening import Opened, open_model
from shrinkc.report import facts
from shrinkc.surgery import remove_channels
from shrinkc.testing import Randomly

TARGETS = {"halving_speedup": 1.8, "prediction_median_error": 0.10, "driven_gain": 0.10}
ROUND_TO, PLANS = 16, 30
ROOT = Path(__file__).parents[1]
TRAINED = ("vgg16-bn-half", "resnet20", "mobilenetv2-like")
SHARES = (0.8, 0.65, 0.5, 0.4, 0.3, 0.25, 0.2)
CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "any_width": ("macs", {"round_to": 1}),
    "macs": ("macs", {}),
    "latency": ("latency", {}),
}
"""Kind of budget, and further settings."""

DROPS = (0.005, 0.01, 0.02, 0.04)
"""Losses of accuracy at which times are compared: where nearly nothing is lost yet, the noise of 10,000 images would decide."""

CALIBRATION = 2048
QUIET = 1.0


def opened(path: Path) -> Opened:
    """A model, analysed."""
    return open_model(path, recipe_files.resolve(target="x86-avx512"), None, shrinkc_ir.load(path), Silent())


def runtime() -> RuntimeAdapter:
    """The reference runtime."""
    made: RuntimeAdapter = registry.load("runtimes", "onnxruntime-cpu")()
    return made


def share_of(model: Opened, is_kept: BoolArray) -> float:
    """Measured time of a cut as a share of the original's."""
    pruned = remove_channels(model.analysis, is_kept, model.shapes)
    return share_of_graphs(model, model.model, pruned)


def share_of_graphs(model: Opened, before: ir.Model, after: ir.Model) -> float:
    """Measured time of one graph as a share of another's, fed as the model is."""
    stopwatch, feed = InProcess(runtime(), RunConfig()), timing.made_up_feed(model)
    with stopwatch.loaded(before, feed) as first, stopwatch.loaded(after, feed) as second:
        return stopwatches.share(stopwatch, first, second, feed)


def halving(name: str, folder: Path) -> dict[str, Any]:
    """Speed-up of half of the MACs."""
    model = opened(MODELS[name](folder / f"{name}.onnx"))
    recipe = recipe_files.resolve(macs="50%", round_to=ROUND_TO)
    budgets = [budget.of(model.cost.dense()) for budget in recipe.budgets()]
    plan = planning.plan_for(model.analysis, recipe, budgets, model.cost, model.sha256, None)
    is_kept = model.analysis.keep_mask(plan.keep())
    macs = model.cost.dense().macs
    return {"macs": macs, "macs_left": model.cost.of(is_kept).macs / macs, "speedup": 1 / share_of(model, is_kept)}


def prediction(name: str, folder: Path, plans: int) -> dict[str, Any]:
    """Relative error of the forecast over random plans."""
    model = opened(MODELS[name](folder / f"{name}.onnx"))
    sources = timing.Sources(None, folder / "cache")
    timed = timing.timed(model, target.load("x86-avx512"), runtime(), RunConfig(), sources, Silent())
    pairs = [_forecast_and_measured(model, timed, seed) for seed in range(plans)]
    errors = [abs(forecast / measured - 1) for forecast, measured in pairs]
    return {"median_error": float(np.median(errors)), "worst_error": max(errors), "detail": timed.detail, "pairs_s": pairs}


def _forecast_and_measured(model: Opened, timed: timing.Timed, seed: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    scores = {group.name: generator.random(group.width) for group in model.analysis.groups}
    ratio = float(generator.uniform(0.1, 0.8))
    allocating = Allocating(model.analysis, model.cost, Randomly(generator, ratio), scores, Limits(8))
    is_kept = model.analysis.keep_mask(allocating.at(ratio).keep)
    dense = timed.forecast.of(model.analysis.keep_mask({}))  # measured: the forecast is scaled by it
    return timed.forecast.of(is_kept), dense * share_of(model, is_kept)


def driven(name: str, folder: Path, shares: Iterable[float], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy and time of cuts with budgets of MACs and of time."""
    source = ROOT / "benchmarks" / "models" / f"{name}.onnx"
    written(folder)
    dense = accuracy_of(source, folder)
    points = {curve: list(_curve(source, folder, shares, curve, settings)) for curve in CURVES}
    gained = {curve: gains(dense, points[curve], points["latency"]) for curve in CURVES if curve != "latency"}
    return {"accuracy": dense, **points, "gains": gained}


def _curve(
    source: Path, folder: Path, shares: Iterable[float], curve: str, settings: Mapping[str, Any]
) -> Iterator[dict[str, float]]:
    budget, own = CURVES[curve]
    for share in shares:
        try:
            point = _point(source, folder, {**own, **settings, budget: f"{share:.0%}"})
        except BudgetError as error:  # floors of the groups bind
            print(source.stem, curve, share, "out of reach:", error.where, flush=True)
            continue
        print(source.stem, curve, share, point, flush=True)
        yield point


def _point(source: Path, folder: Path, settings: Mapping[str, Any]) -> dict[str, float]:
    output = folder / "cut.onnx"
    report = shrinkc.compress(
        source,
        output=output,
        data=folder / "calibration.npz",
        target="x86-avx512",
        latency_cache=folder / "cache" if "latency" in settings else None,
        measure_latency=False,
        verify=False,
        **settings,
    )
    share = share_of_graphs(opened(source), shrinkc_ir.load(source), shrinkc_ir.load(output))
    macs = report.after.macs / report.before.macs
    return {"accuracy": accuracy_of(output, folder), "time_share": share, "macs_share": macs}


def written(folder: Path) -> None:
    """Write the data, once."""
    if not (folder / "test.npz").exists():
        fashion.write_calibration(folder / "calibration.npz", folder / "unused.npz", CALIBRATION, 0)
        fashion.write_test(folder / "test.npz")


def accuracy_of(model: Path, folder: Path) -> float:
    """Top-1 accuracy on the test images."""
    with np.load(folder / "test.npz") as test:
        return score.accuracy(model, fashion.INPUT, test[fashion.INPUT], test["labels"])


def gains(dense: float, others: list[dict[str, float]], by_time: list[dict[str, float]]) -> dict[str, float]:
    """Time that cuts by time save against others, by the accuracy that both may lose; where both curves reach."""
    times = {f"{100 * drop:g} points": [time_at(dense - drop, points) for points in (others, by_time)] for drop in DROPS}
    return {drop: 1 - own / other for drop, (other, own) in times.items() if not (np.isnan(own) or np.isnan(other))}


def time_at(accuracy: float, points: list[dict[str, float]]) -> float:
    """Share of the time at which a curve reaches an accuracy, between its points; nan where it does not.

    The curve is the best accuracy of all points up to a time: nobody would take a slower model that is worse as well.
    """
    ordered = sorted(points, key=lambda point: point["time_share"])
    best = np.maximum.accumulate([point["accuracy"] for point in ordered])
    if not len(best) or not best[0] <= accuracy <= best[-1]:
        return float("nan")
    right = int(np.searchsorted(best, accuracy))
    if right == 0:
        return ordered[0]["time_share"]
    part = (accuracy - best[right - 1]) / (best[right] - best[right - 1])
    return ordered[right - 1]["time_share"] + part * (ordered[right]["time_share"] - ordered[right - 1]["time_share"])


def main() -> None:
    """Run what was asked for and write it beside what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["halving", "prediction", "driven"], action="append")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--trained", nargs="+", choices=TRAINED, default=list(TRAINED))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "latency.json")
    given = parser.parse_args()
    results = json.loads(given.out.read_text())["results"] if given.out.is_file() else {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        shares = SHARES[1::2] if given.quick else SHARES
        quick = {"compensation": "refit"} if given.quick else {}
        jobs: dict[str, tuple[list[str], Callable[[str], dict[str, Any]]]] = {
            "halving": (given.models, lambda name: halving(name, folder)),
            "prediction": (given.models, lambda name: prediction(name, folder, 6 if given.quick else PLANS)),
            "driven": (given.trained, lambda name: driven(name, folder, shares, quick)),
        }
        for job, (models, run) in jobs.items():
            for name in models if job in (given.only or jobs) else ():
                load = os.getloadavg()[0]
                row = run(name)
                print(job, name, row, flush=True)
                disturbed = {"load_average": load, "is_contended": max(load, os.getloadavg()[0]) > QUIET}
                results.setdefault(job, {})[name] = {**row, **disturbed}
                made = {"results": results, "targets": TARGETS, "machine": facts.machine(), "versions": facts.versions()}
                given.out.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
