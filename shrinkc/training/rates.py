"""The learning rate that the settings ask for, published retraining schedules among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
import torch

from shrinkc import ir as shrinkc_ir
from shrinkc.training import budget as budgets
from shrinkc.training.context import Context
from shrinkc.training.lifting import lift_weights
from shrinkc.training.schedules import (
    Constant,
    Cosine,
    Linear,
    Schedule,
    Steps,
    WarmUp,
    pruning_distance,
    retraining,
    trace_of,
)
from shrinkc.training.settings import RETRAINING, Settings

FLOOR = 1e-3
"""Share of the highest rate that a cosine ends at."""

RESOLUTION = 1000
"""Rates of a trace on whose length nothing depends."""


def schedule_of(settings: Settings, context: Context) -> Schedule:
    """Learning rate that the settings ask for.

    What a retraining schedule cannot do without has been seen to by :func:`shrinkc.training.settings.check`.
    """
    if settings.schedule in RETRAINING:
        return _again(settings, context)
    peak = settings.learning_rate
    found: Mapping[str, Schedule] = {
        "constant": Constant(peak),
        "linear": Linear(peak),
        "cosine": Cosine(peak, FLOOR * peak),
        "steps": Steps(peak, settings.milestones),
    }
    chosen = found[settings.schedule]
    return WarmUp(chosen, settings.warm_up, is_linear=True) if settings.warm_up else chosen


def original_steps(settings: Settings, context: Context) -> int | None:
    """Steps of the training that the model came from, None where nothing is said of it."""
    if not settings.original:
        return None
    return budgets.parse(settings.original, "original").steps(context.feeder.order(0).steps_per_epoch)


def _again(settings: Settings, context: Context) -> Schedule:
    """A retraining schedule after a removal; the original's rates are taken to be half a cosine from the highest."""
    name, peak = settings.schedule, settings.learning_rate
    known, own = original_steps(settings, context), settings.length().steps(context.feeder.order(0).steps_per_epoch)
    before = (known or own or RESOLUTION) if name == "lrw" else RESOLUTION
    trace = trace_of(Cosine(peak, FLOOR * peak), before)
    if name != "allr" or known is None or own is None:
        return retraining(name, trace, warm_up=settings.warm_up)
    return retraining(name, trace, distance=_distance(context), length=min(1.0, own / known), warm_up=settings.warm_up)


def _distance(context: Context) -> float:
    """How far the removal took what is learned from the teacher's; 1 where there is none to compare with."""
    if context.teacher is None:
        return 1.0
    after = {name: parameter.detach() for name, parameter in context.executor.trainable().items()}
    before = _learned(context.teacher, after)
    removed = 1 - sum(map(torch.numel, after.values())) / max(1, sum(map(torch.numel, before.values())))
    return min(1.0, pruning_distance(before, after, removed))


def _learned(model: ir.Model, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Stored tensors of these names, those in nodes as well."""
    lift_weights(lifted := model.clone())
    stored = lifted.graph.initializers
    return {
        name: torch.from_numpy(shrinkc_ir.stored_array(stored[name]).astype(np.float32)) for name in names if name in stored
    }
