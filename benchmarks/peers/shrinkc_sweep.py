"""shrinkc on a model of the benchmark, many methods and budgets: what they share is worked out once.

    shrinkc_sweep.py MODEL --calibration X.npz --folder OUT --seed 0 50:obs+rectified+lagrangian 70:l2+none+uniform ...

A method is ``CRITERION+COMPENSATION+ALLOCATOR``.  The stages are those of ``shrinkc.compress`` without the proof and without
timing, and the files are the same byte for byte; evidence and scores do not depend on the budget and are kept.  Every file is
announced by a line of JSON as soon as it is there; ``cpu_s`` is what the run would take alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from shrinkc import ir as shrinkc_ir
from shrinkc import recipe_files, registry
from shrinkc.api import Evidence
from shrinkc.calibrating import evidence_from, needs_evidence
from shrinkc.canonicalize import canonicalize
from shrinkc.choosing import planned_in_turns
from shrinkc.errors import ShrinkcError
from shrinkc.evidence import sources
from shrinkc.log import Silent
from shrinkc.opening import loaded, open_model
from shrinkc.planning import Planned, Scored, planned_for, scored_by
from shrinkc.recipe import Recipe
from shrinkc.repairing import repaired
from shrinkc.surgery import remove_channels

T = TypeVar("T")


class Sweep:
    """One model, one draw of calibration images."""

    def __init__(self, model: Path, calibration: Path, seed: int) -> None:
        self._recipe = recipe_files.resolve(recipe="default", round_to=1, seed=seed)
        self._runtime = registry.load("runtimes", "onnxruntime-cpu")()
        with loaded(model, Silent()) as opened_model:
            self._data, _ = sources.load_given(calibration, None, opened_model, None, None)
            self._opened = open_model(model, self._recipe, self._data, opened_model, Silent())
        self._evidence, self._gathering_s = timed(
            lambda: evidence_from(self._opened, self._recipe, self._data, self._runtime, Silent())
        )
        self._scored = cache(lambda criterion: timed(lambda: self._scores(criterion)))

    def write(self, method: str, removed: int, path: Path) -> dict[str, float]:
        """Write one compressed model; returns its MACs, and CPU seconds with what is shared counted in full."""
        criterion, compensation, allocator = method.split("+")
        scored, scoring_s = self._scored(criterion)
        recipe = self._with(criterion, compensation=compensation, allocator=allocator, macs=f"{100 - removed}%")
        macs, own_s = timed(lambda: self._written(recipe, scored, path))
        return {"macs": macs, "cpu_s": round(own_s + scoring_s + needs_evidence(recipe) * self._gathering_s, 2)}

    def _with(self, criterion: str, **settings: object) -> Recipe:
        return replace(self._recipe, criterion=criterion, **settings)

    def _scores(self, criterion: str) -> Scored:
        known = self._evidence if registry.built("criteria", criterion).needs_evidence else None
        return scored_by(self._opened.analysis, self._with(criterion), known)

    def _written(self, recipe: Recipe, scored: Scored, path: Path) -> int:
        evidence = self._evidence if needs_evidence(recipe) else None
        shared = (self._opened, recipe, evidence, self._data, self._runtime, Silent())
        planned = planned_in_turns(*shared, plan=lambda known: self._planned(recipe, known, scored))
        is_kept = self._opened.analysis.keep_mask(planned.plan.keep())
        pruned = canonicalize(remove_channels(self._opened.analysis, is_kept, self._opened.shapes))
        repaired(self._opened, recipe, pruned, is_kept, self._data, self._runtime, Silent())
        shrinkc_ir.save(pruned, path)
        return int(self._opened.cost.of(is_kept).macs)

    def _planned(self, recipe: Recipe, evidence: Evidence | None, scored: Scored) -> Planned:
        opened = self._opened
        budgets = [budget.of(opened.cost.dense()) for budget in recipe.budgets()]
        return planned_for(opened.analysis, recipe, budgets, opened.cost, opened.sha256, evidence, scored)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """A result and the CPU seconds it took."""
    start = time.process_time()
    return work(), time.process_time() - start


def main() -> None:
    """Write one file per run, named by its number, and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("runs", nargs="+", metavar="REMOVED:METHOD")
    args = parser.parse_args()
    sweep = Sweep(args.model, args.calibration, args.seed)
    for number, run in enumerate(args.runs):
        removed, _, method = run.partition(":")
        try:
            answer = sweep.write(method, int(removed), args.folder / f"{number}.onnx")
        except ShrinkcError as error:
            answer: dict[str, Any] = {"failed": str(error), "cpu_s": 0.0}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**answer, "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
