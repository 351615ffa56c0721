"""Recovery: a cut model learns from its original to give the same answers again; no labels needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from shrinkc import registry
from shrinkc.errors import TrainingError
from shrinkc.log import Progress
from shrinkc.training.context import BEST, Context
from shrinkc.training.distributed import joined
from shrinkc.training.evaluation import Metrics
from shrinkc.training.interfaces import Method
from shrinkc.training.interrupts import Interrupts
from shrinkc.training.outcome import Recovery
from shrinkc.training.phases import carry_out
from shrinkc.training.preparing import Lesson, prepared
from shrinkc.training.settings import Settings
from shrinkc.training.threads import limited

SPENT = "the budget is spent"


@dataclass(frozen=True, eq=False)
class Trained:
    """What came out of a training run.

    Attributes
    ----------
    model : ir.Model
        With the best weights.
    before, after : Metrics
        On the held-out samples.
    context : Context
    seconds : float
    error : TrainingError or None
        Why it ended before its time.
    """

    model: ir.Model
    before: Metrics
    after: Metrics
    context: Context
    seconds: float
    error: TrainingError | None = None

    @property
    def stopped(self) -> str:
        """Why training ended."""
        return self.error.message if self.error is not None else self.context.stopped or SPENT


def trained(
    lesson: Lesson,
    settings: Settings,
    progress: Progress,
    checkpoint: Path | None = None,
    built: Callable[[str, Mapping[str, object]], Method] | None = None,
) -> Trained:
    """Train a model as its settings say.

    Parameters
    ----------
    lesson : Lesson
    settings : Settings
    progress : Progress
    checkpoint : Path, optional
        Written now and then, and taken up from if it is there.
    built : callable of name and options to Method, optional
        By default the plug-in of that name.

    Raises
    ------
    RecipeError, RuntimeUnavailable
        See :func:`shrinkc.training.preparing.prepared`.
    """
    make = built or method_of
    with limited(settings.threads), joined(settings.device) as world, Interrupts() as interrupts:
        context = prepared(lesson, settings, world, progress, interrupts, checkpoint)
        started = time.perf_counter()
        before = context.evaluate()
        context.snapshot(BEST)
        method = make(settings.method, settings.options)
        error = _carried_out(method, context)
        after = context.evaluate()
        return Trained(context.executor.write_back(), before, after, context, time.perf_counter() - started, error)


def _carried_out(method: Method, context: Context) -> TrainingError | None:
    """Why it ended early, if it did; the model then holds the best weights there were."""
    try:
        carry_out(method.phases(context), context)
    except TrainingError as error:
        context.put(context.snapshots[BEST])
        return error
    return None


def method_of(name: str, options: Mapping[str, object]) -> Method:
    """Training method by its plug-in's name, with its own settings."""
    factory = registry.load("training", name)
    method: Method = factory(**options)
    return method


def recovered(lesson: Lesson, settings: Settings, progress: Progress, checkpoint: Path | None = None) -> Trained:
    """Recover a cut model; never gives back one that is worse on the held-out samples than what it began with.

    Raises
    ------
    RecipeError, RuntimeUnavailable
        See :func:`shrinkc.training.preparing.prepared`.
    """
    return trained(lesson, settings, progress, checkpoint)


def outcome(result: Trained, lesson: Lesson, settings: Settings) -> Recovery:
    """What the report says about it."""
    context, before, after = result.context, result.before, result.after
    return Recovery(
        budget=settings.budget,
        steps=context.steps_done,
        seconds=result.seconds,
        samples=len(lesson.data.inputs[next(iter(lesson.data.inputs))]) - _held_out(context, lesson),
        held_out=len(context.judged),
        is_shared=_held_out(context, lesson) == 0,
        is_synthetic=lesson.data.is_synthetic,
        loss_before=before.loss,
        loss_after=after.loss,
        agreement_before=before.agreement,
        agreement_after=after.agreement,
        accuracy_before=before.accuracy,
        accuracy_after=after.accuracy,
        stopped=result.stopped,
        settings=settings.to_json(),
        processes=context.world.size,
    )


def _held_out(context: Context, lesson: Lesson) -> int:
    """Samples that were not trained on."""
    return len(context.judged) if len(context.judged) < lesson.data.n_samples else 0


__all__: Sequence[str] = ["Trained", "method_of", "outcome", "recovered", "trained"]
