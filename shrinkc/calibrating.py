"""Which samples repair a model and which judge it, and what the first ones tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from shrinkc import registry
from shrinkc.api import Evidence, ReadingGradients, RuntimeAdapter
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence.batching import batches_of
from shrinkc.evidence.data import Data
from shrinkc.evidence.gathering import gather
from shrinkc.evidence.sensitivity import with_sensitivities
from shrinkc.evidence.synthetic import synthesise
from shrinkc.log import Progress
from shrinkc.opening import Opened
from shrinkc.plan import Plan
from shrinkc.recipe import CHANNELS, LOWRANK, NO_COMPENSATION, Recipe

HELD_OUT_EVERY = 4
"""Every so-manieth sample is held out to judge the result, where the data has to serve for both."""

LEAST_TO_SHARE = 64
"""Fewer samples than this are not shared out: all of them repair, and all of them judge."""

SYNTHETIC_SAMPLES = 256

CALIBRATION_SAMPLES = 2048
"""Most samples that evidence and compensation look at where the data is meant for recovery too."""

LEAST_PROBED, MOST_PROBED, PROBED_MACS = 8, 128, 2 * 10**12
"""Samples a group is probed with, and multiply-accumulates of all probes together."""

SYNTHETIC_NOTE = "Calibrated on {} synthetic samples made up from the model; real ones (--data) do better."

NOTHING_NOTE = (
    "Nothing makes up for what was removed: give --data, or at least --recipe synthetic (inputs made up from the model)."
)

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
    training : Data or None
        For recovery, ``calibration`` among them; None where nothing is recovered.
    """

    calibration: Data | None
    evaluation: Data | None
    note: str = ""
    training: Data | None = None


def needs_evidence(recipe: Recipe) -> bool:
    """Whether channels are chosen by what data says."""
    if recipe.method == LOWRANK:
        return False
    parts = [registry.built("criteria", recipe.criterion), registry.built("allocators", recipe.allocator)]
    return any(part.needs_evidence for part in parts)


def factors_need_data(recipe: Recipe) -> bool:
    """Whether layers are factorised by what data says."""
    return recipe.method != CHANNELS and bool(registry.built("factorizations", recipe.factorization).needs_data)


def needs_data(recipe: Recipe, *, is_replay: bool) -> bool:
    """Whether anything a run does looks at data; a replayed plan has its channels chosen already."""
    return recipe.recover is not None or makes_up_data(recipe, is_replay=is_replay)


def needs_gradients(recipe: Recipe) -> bool:
    """Whether channels are chosen by gradients of the loss."""
    if recipe.method == LOWRANK:
        return False
    criterion = registry.built("criteria", recipe.criterion)
    return isinstance(criterion, ReadingGradients) and criterion.needs_gradients


def makes_up_data(recipe: Recipe, *, is_replay: bool) -> bool:
    """Whether inputs are made up from the model where none are given: what is done, or the repair of the rest, follows data."""
    asked = (not is_replay and needs_evidence(recipe)) or factors_need_data(recipe)
    if recipe.compensation == NO_COMPENSATION:
        return asked
    return asked or bool(registry.built("compensation", recipe.compensation).needs_data)


def for_recovery(samples: Samples, opened: Opened, recipe: Recipe) -> Samples:
    """Samples of which all are for recovery, if there is one, and as many as help for evidence and compensation."""
    if recipe.recover is None or samples.calibration is None:
        return samples
    few = samples.calibration.thinned(CALIBRATION_SAMPLES, evidence_data.fixed_batch(opened.model) or 1)
    return replace(samples, calibration=few, training=samples.calibration)


def shared_out(opened: Opened, recipe: Recipe, is_needed: bool, given: Data | None, evaluation: Data | None) -> Samples:
    """Samples for repairing and for judging.

    Where some are needed and none were given, they are made up from the model; where one set has to serve for both, every
    fourth sample is held out for judging.
    """
    if not is_needed:
        return Samples(
            None, evaluation or given, NOTHING_NOTE if given is None and recipe.compensation == NO_COMPENSATION else ""
        )
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
    """Moments of what the prunable layers read, and how much each group matters; None where nothing asks for them."""
    if calibration is None or not needs_evidence(recipe):
        return None
    batches = batches_for(opened, calibration)
    with progress.stage(f"gathering evidence from {calibration.n_samples} samples"):
        evidence = gather(opened.analysis, calibration, batches, runtime, recipe.seed)
    with progress.stage("probing how much every group matters"):
        few = few_for_probes(batches, opened, len(opened.analysis.groups))
        return with_sensitivities(evidence, opened.analysis, few, runtime)


def probed_at(
    plan: Plan, evidence: Evidence, opened: Opened, calibration: Data, runtime: RuntimeAdapter, progress: Progress
) -> Evidence:
    """Evidence with every group that a plan cuts probed at the width it has there."""
    widths = {group.name: group.width for group in opened.analysis.groups}
    silenced = {name: widths[name] - len(kept) for name, kept in plan.keep().items()}
    few = few_for_probes(batches_for(opened, calibration), opened, len(widths))
    with progress.stage("probing every group at its width"):
        return with_sensitivities(evidence, opened.analysis, few, runtime, silenced)


def few_for_probes(batches: Batches, opened: Opened, probes: int) -> Batches:
    """So many samples for every probe that all of them together take seconds, not minutes."""
    work = max(1, opened.cost.dense().macs * probes)
    wanted = min(MOST_PROBED, max(LEAST_PROBED, PROBED_MACS // work))
    fixed = evidence_data.fixed_batch(opened.model)
    if fixed is not None:
        return batches[: -(-wanted // fixed)]
    few: Batches = []
    held = 0
    for batch in batches:
        few.append({name: array[: wanted - held] for name, array in batch.items()})
        held += len(next(iter(few[-1].values())))
        if held >= wanted:
            break
    return few


def batches_for(opened: Opened, calibration: Data) -> Batches:
    """Calibration samples in the batches that the model takes."""
    return batches_of(opened.analysis, calibration)
