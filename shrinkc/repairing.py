"""Compensation as a stage: the cut model's weights are changed, its shapes are not."""

from __future__ import annotations

import onnx_ir as ir

from shrinkc import registry
from shrinkc.analysis.groups import BoolArray, stored_tensors
from shrinkc.api import Compensation, Repair, Repaired, RuntimeAdapter
from shrinkc.calibrating import batches_for
from shrinkc.errors import PluginError
from shrinkc.evidence.data import Data
from shrinkc.log import Progress
from shrinkc.opening import Opened
from shrinkc.recipe import NO_COMPENSATION, Recipe


def repaired(
    opened: Opened,
    recipe: Recipe,
    pruned: ir.Model,
    is_kept: BoolArray,
    calibration: Data | None,
    runtime: RuntimeAdapter,
    progress: Progress,
) -> Repaired:
    """Compensate ``pruned`` in place, as the recipe asks.

    Raises
    ------
    PluginError
        A compensation changed the shape of a tensor.
    """
    if recipe.compensation == NO_COMPENSATION:
        return Repaired()
    compensation: Compensation = registry.built("compensation", recipe.compensation)
    batches = [] if calibration is None else batches_for(opened, calibration)
    shapes = _shapes(pruned)
    with progress.stage(f"compensating ({recipe.compensation})"):
        result = compensation.apply(Repair(opened.analysis, is_kept, pruned, opened.shapes, batches, runtime, recipe.seed))
    if _shapes(pruned) != shapes:
        raise PluginError("a compensation changed the shape of a tensor", where=recipe.compensation)
    return result


def _shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    return {value.name or "": tuple(value.shape.numpy()) for value in stored_tensors(model) if value.shape is not None}
