"""Which samples repair a model and which judge it, and what the first ones tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shrinkc import registry
from shrinkc.api import Evidence, RuntimeAdapter
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence.data import Data
from shrinkc.evidence.gathering import batches_of, gather
from shrinkc.evidence.synthetic import synthesise
from shrinkc.log import Progress
from shrinkc.opening import Opened
from shrinkc.recipe import NO_COMPENSATION, Recipe

HELD_OUT_EVERY = 4
"""Every so-manieth sample is held out to judge the result, where the data has to serve for both."""

LEAST_TO_SHARE = 64
"""Fewer samples than this are not shared out: all of them repair, and all of them judge."""

SYNTHETIC_SAMPLES = 256

SYNTHETIC_NOTE = "Calibrated on {} synthetic samples made up from the model; real ones (--data) do better."

TOO_FEW_NOTE = "Quality was measured on the very samples used for calibration, as they are too few to hold any out."

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


def needs_data(recipe: Recipe, *, is_replay: bool) -> bool:
    """Whether anything a run does looks at data; a replayed plan has its channels chosen already."""
    asked = False
    if not is_replay:
        parts = [registry.built("criteria", recipe.criterion), registry.built("allocators", recipe.allocator)]
        asked = any(part.needs_evidence for part in parts)
    if recipe.compensation == NO_COMPENSATION:
        return asked
    return asked or bool(registry.built("compensation", recipe.compensation).needs_data)


def shared_out(opened: Opened, recipe: Recipe, is_needed: bool, given: Data | None, evaluation: Data | None) -> Samples:
    """Samples for repairing and for judging.

    Where some are needed and none were given, they are made up from the model; where one set has to serve for both, every
    fourth sample is held out for judging.
    """
    if not is_needed:
        return Samples(None, evaluation or given)
    if given is None:
        made = synthesise(opened.model, opened.shapes, SYNTHETIC_SAMPLES, recipe.seed)
        return Samples(made, evaluation, SYNTHETIC_NOTE.format(made.n_samples))
    if evaluation is not None:
        return Samples(given, evaluation)
    fixed = evidence_data.fixed_batch(opened.model) or 1
    if given.n_samples < max(LEAST_TO_SHARE, HELD_OUT_EVERY * fixed):
        return Samples(given, given, TOO_FEW_NOTE)
    return Samples(*given.split(HELD_OUT_EVERY, fixed))


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
