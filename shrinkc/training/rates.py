"""The learning rate that the settings ask for, published retraining schedules among them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import RecipeError
from shrinkc.training import budget as budgets
from shrinkc.training.context import Context
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

    Raises
    ------
    RecipeError
        A retraining schedule has to know how many steps there are, and does not.
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
    """Steps of the training that the model came from, None where nothing is said of it.

    Raises
    ------
    RecipeError
        It is told as a time.
    """
    if not settings.original:
        return None
    steps = budgets.parse(settings.original, "original").steps(context.feeder.order(0).steps_per_epoch)
    if steps is None:
        raise RecipeError("the schedule counts steps", where=f"original = {settings.original}", hint="epochs or steps")
    return steps


def _again(settings: Settings, context: Context) -> Schedule:
    """A retraining schedule after a removal; the original's rates are taken to be half a cosine from the highest."""
    name, peak = settings.schedule, settings.learning_rate
    known, own = original_steps(settings, context), settings.length().steps(context.feeder.order(0).steps_per_epoch)
    before = known or own if name == "lrw" else RESOLUTION
    if before is None or (name == "allr" and (known is None or own is None)):
        raise RecipeError(
            "the schedule counts steps",
            where=f'schedule = "{name}"',
            because=f"budget = {settings.budget}, original = {settings.original or 'unknown'}",
            hint="budgets of epochs or steps, for original as well",
        )
    trace = trace_of(Cosine(peak, FLOOR * peak), before)
    length = 1.0 if known is None or own is None else min(1.0, own / known)
    return retraining(name, trace, distance=_distance(context), length=length, warm_up=settings.warm_up)


def _distance(context: Context) -> float:
    """How far the removal took the weights from those of the teacher; 1 where there is none to compare with."""
    if context.teacher is None:
        return 1.0
    before, after = (_weights(model) for model in (context.teacher, context.model))
    total = sum(tensor.numel() for tensor in before.values())
    removed = 1 - sum(tensor.numel() for tensor in after.values()) / max(1, total)
    return min(1.0, pruning_distance(before, after, removed))


def _weights(model: ir.Model) -> dict[str, torch.Tensor]:
    """All stored floating tensors."""
    arrays = {name: shrinkc_ir.stored_array(value) for name, value in model.graph.initializers.items()}
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items() if array.dtype.kind in "fV"}
