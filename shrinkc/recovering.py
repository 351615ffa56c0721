"""Recovery as a stage: the cut and compensated model learns from the original, on the samples that repaired it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from shrinkc.analysis.groups import BoolArray
from shrinkc.api import FloatArray, RuntimeAdapter
from shrinkc.errors import RecipeError, ShrinkcError
from shrinkc.evidence.data import Data
from shrinkc.log import Progress
from shrinkc.opening import Opened
from shrinkc.recipe import Recipe
from shrinkc.report.model import Recovery

if TYPE_CHECKING:
    from shrinkc.training.running import Trained
    from shrinkc.training.settings import Settings

DEFAULT_RECIPE = "recovery"


@dataclass(frozen=True, eq=False)
class Recovered:
    """What recovery did to a model.

    Attributes
    ----------
    recovery : Recovery or None
        None where none was asked for.
    tensors : tuple of str
        That changed.
    error : ShrinkcError or None
        Why it ended before its time; the model then holds the best weights there were.
    """

    recovery: Recovery | None = None
    tensors: tuple[str, ...] = ()
    error: ShrinkcError | None = None


def settings_for(recipe: Recipe) -> Settings | None:
    """Training settings of the recovery that a recipe asks for, None if it does not.

    Raises
    ------
    RecipeError
        The budget or the training recipe is wrong.
    """
    if recipe.recover is None:
        return None
    from shrinkc.training import budget, recipe_files
    from shrinkc.training.interfaces import Rewriting
    from shrinkc.training.running import method_of

    budget.parse(recipe.recover, "--recover")
    found = recipe_files.resolve(recipe.recover_with or DEFAULT_RECIPE, budget=recipe.recover, seed=recipe.seed)
    if found.teacher == "none":
        raise RecipeError(
            "recovery learns from the original", where=f"--recover-with {recipe.recover_with}", hint='teacher = "original"'
        )
    method = method_of(found.method, found.options)
    if getattr(method, "leaves_weights_masked", False):
        raise RecipeError(
            "recovery gives back what removal cost, and this method masks weights away",
            where=f"--recover-with {recipe.recover_with}",
            hint=f"shrinkc train --method {found.method}",
        )
    if isinstance(method, Rewriting):
        raise RecipeError(
            "recovery keeps the graph, and this method changes it",
            where=f"--recover-with {recipe.recover_with}",
            hint=f"shrinkc train --method {found.method}",
        )
    if found.norms == "opened":
        raise RecipeError(
            "recovery keeps the graph, and this would leave normalisations open in it",
            where=f"--recover-with {recipe.recover_with}",
            hint='norms = "refolded"',
        )
    return found


def check(recipe: Recipe, model: ir.Model, data: Data | None, *, makes_up_data: bool) -> None:
    """Refuse, before anything costs time, what recovery could not do in the end.

    Raises
    ------
    RecipeError
        There is no data and the recipe makes none up, or a setting is wrong.
    UnsupportedGraphError
        There are operators that cannot be trained through.
    """
    settings = settings_for(recipe)
    if settings is None:
        return
    if data is None and not makes_up_data:
        raise RecipeError(
            "recovery needs inputs of the model",
            where="--recover",
            hint="--data SOURCE (labels are not needed), or --recipe synthetic",
        )
    from shrinkc.training.batch_norms import check_openable
    from shrinkc.training.distill import named_among
    from shrinkc.training.executor import check_operators
    from shrinkc.training.lifting import lift_weights

    check_operators(model)
    named_among([value.name or "" for value in model.graph.outputs], settings.classes)
    if settings.norms != "given":
        lift_weights(copy := model.clone())
        check_openable(copy)


def recovered(
    opened: Opened,
    recipe: Recipe,
    pruned: ir.Model,
    is_kept: BoolArray,
    calibration: Data | None,
    runtime: RuntimeAdapter,
    progress: Progress,
    checkpoint: Path | None = None,
) -> Recovered:
    """Recover ``pruned`` in place, as the recipe asks.

    Raises
    ------
    RecipeError
        Settings do not fit the data, or the checkpoint is another run's.
    """
    settings = settings_for(recipe)
    if settings is None or calibration is None:
        return Recovered()
    from shrinkc.training.lesson import Lesson
    from shrinkc.training.lifting import lift_weights
    from shrinkc.training.running import trained
    from shrinkc.training.waypoints import features_for

    settings = fitting(settings, calibration, pruned)
    features = features_for(opened.analysis, is_kept, pruned, settings.features) if settings.feature_weight else []
    lift_weights(pruned)
    before = {name: value.const_value for name, value in pruned.graph.initializers.items()}
    result = trained(Lesson(pruned, opened.model, calibration, features, runtime), settings, progress, checkpoint)
    outcome = _outcome(result, calibration, result.context.settings.to_json())
    if result.after.loss > result.before.loss:  # of a method that means its last weights, whatever they are
        outcome = _taken_back(outcome, pruned, before)
    changed = tuple(name for name, value in pruned.graph.initializers.items() if value.const_value is not before.get(name))
    return Recovered(outcome, changed, result.error)


def _taken_back(outcome: Recovery, model: ir.Model, before: Mapping[str, ir.TensorProtocol | None]) -> Recovery:
    """What is told when the weights that the training began with are put back, in place."""
    for name, value in model.graph.initializers.items():
        value.const_value = before.get(name, value.const_value)
    return replace(
        outcome,
        loss_after=outcome.loss_before,
        agreement_after=outcome.agreement_before,
        accuracy_after=outcome.accuracy_before,
        stopped=f"what came out (loss {outcome.loss_after:.4g}) was worse and was taken back",
    )


def gradients_from(opened: Opened, data: Data, progress: Progress) -> dict[str, FloatArray]:
    """Gradients of the loss by stored tensor; of the model's own answers where there are no labels.

    Raises
    ------
    UnsupportedGraphError
        There are operators that cannot be differentiated through.
    """
    from shrinkc.training.gradients import gradients

    with progress.stage("gathering gradients"):
        return gradients(opened.model, data)


def fitting(settings: Settings, data: Data, model: ir.Model) -> Settings:
    """Settings without augmentation where no input is an image; with frozen statistics where the model fixes a small batch."""
    from shrinkc.training.lesson import has_images
    from shrinkc.training.preparing import has_enough_to_normalise, running_batches

    found = settings if has_images(data) else replace(settings, augment=(), pool=0)
    _, unit = running_batches(model, data)
    return found if has_enough_to_normalise(model, unit) else _frozen(found)


def _frozen(settings: Settings) -> Settings:
    options = dict(settings.options)
    if "tried" in options:
        options["tried"] = tuple({**one, "batch_norm": "frozen"} for one in options["tried"])
    return replace(settings, batch_norm="frozen", reestimate=False, options=options)


def _outcome(result: Trained, data: Data, settings: dict[str, Any]) -> Recovery:
    context, before, after = result.context, result.before, result.after
    return Recovery(
        budget=str(settings["budget"]),
        steps=context.steps_done,
        seconds=result.seconds,
        samples=result.n_trained,
        held_out=data.n_samples - result.n_trained,
        is_shared=result.n_trained == data.n_samples,
        is_synthetic=data.is_synthetic,
        loss_before=before.loss,
        loss_after=after.loss,
        agreement_before=before.agreement,
        agreement_after=after.agreement,
        accuracy_before=before.accuracy,
        accuracy_after=after.accuracy,
        stopped=result.stopped,
        processes=context.world.size,
        inside=context.objective.inside,
        settings=settings,
    )
