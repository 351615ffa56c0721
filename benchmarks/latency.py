"""Latency on onnxruntime's CPU provider, one thread: what a cut gains, and what a forecast is worth.

    python benchmarks/latency.py                         # writes benchmarks/results/latency.json; ten minutes
    python benchmarks/latency.py --only halving --models vgg11
    python benchmarks/latency.py --quick                 # shows that it works

* halving: half of the MACs removed by magnitude; time as a share of the original's;
* prediction: forecast against measurement of random plans, the forecast scaled by the original alone, the measurement taken in
  turns with the original.

Times are CPU times of the process, the least of short blocks that take turns, which a busy machine disturbs little; the load is
written beside them, and results taken above a load of one are marked contended.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from latency_models import MODELS

from shrinkc import ir as shrinkc_ir
from shrinkc import planning, recipe_files, registry, target, timing
from shrinkc.allocate import Allocating, Limits
from shrinkc.analysis.groups import BoolArray
from shrinkc.api import RunConfig, RuntimeAdapter
from shrinkc.latency import stopwatch as stopwatches
from shrinkc.latency.stopwatch import InProcess
from shrinkc.log import Silent
from shrinkc.opening import Opened, open_model
from shrinkc.report import facts
from shrinkc.surgery import remove_channels
from shrinkc.testing import Randomly

TARGETS = {"halving_speedup": 1.8, "prediction_median_error": 0.10}
ROUND_TO, PLANS = 16, 30
ROOT = Path(__file__).parents[1]
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


def main() -> None:
    """Run what was asked for and write it beside what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["halving", "prediction"], action="append")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "latency.json")
    given = parser.parse_args()
    results = json.loads(given.out.read_text())["results"] if given.out.is_file() else {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        jobs: dict[str, Callable[[str], dict[str, Any]]] = {
            "halving": lambda name: halving(name, folder),
            "prediction": lambda name: prediction(name, folder, 6 if given.quick else PLANS),
        }
        for job, name in product(given.only or jobs, given.models):
            load = os.getloadavg()[0]
            row = jobs[job](name)
            print(job, name, row, flush=True)
            disturbed = {"load_average": load, "is_contended": max(load, os.getloadavg()[0]) > QUIET}
            results.setdefault(job, {})[name] = {**row, **disturbed}
            made = {"results": results, "targets": TARGETS, "machine": facts.machine(), "versions": facts.versions()}
            given.out.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
