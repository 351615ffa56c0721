"""Which samples repair a model and which judge it, and what the first ones tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shrinkc import registry
from shrinkc.api import Evidence, RuntimeAdapter
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence.data import Data
from shrinkc.evidence.gathering import batches_of, gather
from shrinkc.evidence.synthetic import synthesise
from shrinkc.log import Progress
from shrinkc.opening import Opened
from shrinkc.recipe import Recipe

HELD_OUT_EVERY = 4
"""Every so-manieth sample is held out to judge the result, where the data has to serve for both."""

LEAST_TO_SHARE = 64
"""Fewer samples than this are not shared out: all of them repair, and all of them judge."""

SYNTHETIC_SAMPLES = 256

Batches = list[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Samples:
    """What a run may look at.

    Attributes
    ----------
    calibration : Data or None
        For evidence and compensation; None where nothing needs it.
    evaluation : Data or None
        For measuring quality; None where nothing real was given.
    note : str
        What a reader has to know about the two.
    """

    calibration: Data | None
    evaluation: Data | None
    note: str = ""


def needs_data(recipe: Recipe) -> bool:
    """Whether anything in a recipe looks at data."""
    parts: list[Any] = [registry.load("criteria", recipe.criterion), registry.load("allocators", recipe.allocator_name)]
    if recipe.compensation != "none":
        compensation = registry.load("compensation", recipe.compensation)
        return bool(compensation.needs_data) or any(part.needs_evidence for part in parts)
    return any(part.needs_evidence for part in parts)


def shared_out(opened: Opened, recipe: Recipe, given: Data | None, evaluation: Data | None) -> Samples:
    """Samples for repairing and for judging; made up from the model where none were given and some are needed."""
    if not needs_data(recipe):
        return Samples(None, evaluation or given)
    if given is None:
        made = synthesise(opened.model, opened.shapes, _whole_batches(SYNTHETIC_SAMPLES, opened), recipe.seed)
        note = f"Calibrated on {made.n_samples} synthetic samples made up from the model; --data FILE gives better results."
        return Samples(made, evaluation, note)
    if evaluation is not None:
        return Samples(given, evaluation)
    fixed = evidence_data.fixed_batch(opened.model) or 1
    if given.n_samples < max(LEAST_TO_SHARE, 2 * HELD_OUT_EVERY * fixed):
        return Samples(given, given, "Quality was measured on the very samples used for calibration: too few to hold any out.")
    is_held_out = np.arange(given.n_samples) // fixed % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return Samples(given.take(np.flatnonzero(~is_held_out)), given.take(np.flatnonzero(is_held_out)))


def _whole_batches(samples: int, opened: Opened) -> int:
    fixed = evidence_data.fixed_batch(opened.model) or 1
    return max(1, samples // fixed) * fixed


def evidence_from(
    opened: Opened, recipe: Recipe, calibration: Data | None, runtime: RuntimeAdapter, progress: Progress
) -> Evidence | None:
    """Moments of what the prunable layers read; None where no part of the recipe asks for them."""
    if calibration is None:
        return None
    batches = batches_for(opened, calibration)
    with progress.stage(f"gathering evidence from {calibration.n_samples} samples"):
        return gather(opened.analysis, calibration, batches, runtime, recipe.seed)


def batches_for(opened: Opened, calibration: Data) -> Batches:
    """Calibration samples in the batches that the model takes."""
    return batches_of(calibration, evidence_data.fixed_batch(opened.model))
