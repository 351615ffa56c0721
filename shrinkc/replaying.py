"""A saved plan carried out again: the result has to be the file at hand, byte for byte, and its surgery proved."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc import plan as plans
from shrinkc.calibrating import makes_up_data
from shrinkc.errors import RecipeError, VerificationError
from shrinkc.evidence.sources import Source
from shrinkc.files import sha256
from shrinkc.log import Progress
from shrinkc.opening import data_files
from shrinkc.pipeline import compress
from shrinkc.plan import Plan
from shrinkc.recipe import NO_COMPENSATION, Recipe
from shrinkc.report.check import FAILED, PASSED, Verdict
from shrinkc.report.model import Report

TAKEN_OVER = ("optimize", "seed", "input_shapes")
"""Settings of the first run that change the file, besides those that every replay takes from a plan."""

NOT_REPEATABLE = {
    "recover": "training gives other weights every time",
    "merge_factors": "which factors were put together was decided by times",
}
"""Settings that no plan can say enough about."""

ALLOWED = "the plan gives the same bytes, proved"

OTHER_VALUES = "the first run had other calibration samples (--calibration), another processor or other versions of libraries"


@dataclass(frozen=True)
class Replay:
    """What to carry out, and what the first run was given.

    Attributes
    ----------
    plan : Path
    calibration : source or None
        ``--data`` of the run that made the plan.
    judged : source or None
        ``--eval-data`` of that run.
    preprocess : str or None
    samples : int or None
    """

    plan: Path
    calibration: Source | None = None
    judged: Source | None = None
    preprocess: str | None = None
    samples: int | None = None


def replayed(replay: Replay, original: Path, compressed: Path, progress: Progress) -> Verdict:
    """Verdict on a file that is said to come from a plan.

    Raises
    ------
    RecipeError
        The plan is not one, is of another model, or cannot be repeated; or calibration data would have no effect.
    """
    saved = plans.read(replay.plan)
    _check(saved, replay)
    with tempfile.TemporaryDirectory(prefix="shrinkc-replay-") as folder:
        again = Path(folder) / compressed.name
        try:
            report = _carried_out(replay, saved, original, again, progress)
        except VerificationError as error:
            reason = ": ".join(filter(None, [error.message, error.because]))
            return Verdict("plan", FAILED, ALLOWED, "the proof failed", detail=reason)
        return _judged(report, again, compressed)


def _check(saved: Plan, replay: Replay) -> None:
    for name, reason in NOT_REPEATABLE.items():
        if saved.settings.get(name):
            raise RecipeError("the plan cannot be repeated byte for byte", where=f"{replay.plan}: {name}", because=reason)
    if replay.calibration is not None and not _looks_at_data(saved):
        raise RecipeError(
            "would have no effect", where="--calibration", because="replaying this plan looks at no data", hint="leave it out"
        )


def _looks_at_data(saved: Plan) -> bool:
    """Whether a replay fits anything to samples."""
    names = ("method", "factorization", "compensation")
    settings = {name: saved.settings[name] for name in names if name in saved.settings}
    return makes_up_data(Recipe(**{"compensation": NO_COMPENSATION, **settings}), is_replay=True)


def _carried_out(replay: Replay, saved: Plan, original: Path, again: Path, progress: Progress) -> Report:
    settings: dict[str, Any] = {name: saved.settings[name] for name in TAKEN_OVER if saved.settings.get(name) is not None}
    shapes = settings.get("input_shapes")
    if shapes is not None:
        settings["input_shapes"] = {name: tuple(sizes) for name, sizes in shapes.items()}
    is_given = replay.calibration is not None
    return compress(
        original,
        output=again,
        plan=replay.plan,
        data=replay.calibration,
        eval_data=replay.judged if is_given else None,
        preprocess=replay.preprocess if is_given else None,
        samples=replay.samples if is_given else None,
        measure_latency=False,
        progress=progress,
        **settings,
    )


def _judged(report: Report, again: Path, compressed: Path) -> Verdict:
    mine, ours = (shrinkc_ir.load(path) for path in (again, compressed))
    if _hashes(again, mine) == _hashes(compressed, ours):
        return Verdict("plan", PASSED, ALLOWED, "the same bytes", detail=_proof(report))
    return Verdict("plan", FAILED, ALLOWED, "other bytes", detail=_difference(mine, ours))


def _hashes(path: Path, model: ir.Model) -> list[str]:
    """Of the file of a model, and of those beside it that hold its weights."""
    return [sha256(file) for file in (path, *data_files(path, model))]


def _difference(mine: ir.Model, ours: ir.Model) -> str:
    """What is not the same, in a sentence."""
    expected, found = (
        {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value is not None}
        for model in (mine, ours)
    )
    alike = {name for name in expected.keys() & found.keys() if expected[name].shape == found[name].shape}
    if len(alike) < max(len(expected), len(found)):
        other = sorted(name for name in expected.keys() | found.keys() if name not in alike)
        return f"{len(other)} tensors are missing or have another shape, {other[0]} for one: the file comes from another plan"
    errors = {name: _relative(expected[name], found[name]) for name in alike}
    changed = {name: error for name, error in errors.items() if error > 0}
    if not changed:
        return "every tensor is the same; nodes or metadata are not"
    name = max(changed, key=lambda one: changed[one])
    return f"values of {len(changed)} tensors differ, most in {name}, by {changed[name]:.1e} of its largest: {OTHER_VALUES}"


def _relative(expected: NDArray[Any], found: NDArray[Any]) -> float:
    if np.array_equal(expected, found):
        return 0.0
    scale = float(np.abs(expected.astype(np.float64)).max(initial=0.0)) or 1.0
    error = float(np.abs(expected.astype(np.float64) - found).max()) / scale
    return error if np.isfinite(error) else float("inf")


def _proof(report: Report) -> str:
    parts = []
    if report.proof is not None:
        worst = max(trial.error for trial in report.proof.trials)
        parts.append(f"surgery proved in {len(report.proof.trials)} trials, worst difference {worst:.2g} of the tolerance")
    if report.factor_proof is not None:
        parts.append("factors proved")
    return "; ".join(parts)
