"""A training run from end to end: a model, its lesson and its settings in; the best model out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from shrinkc import registry
from shrinkc.errors import DivergedError, ShrinkcError, TrainingError, VerificationError
from shrinkc.evidence.data import fixed_batch
from shrinkc.log import Progress
from shrinkc.training.batch_norms import channel_statistics, check_openable, fold_batch_norms, open_batch_norms
from shrinkc.training.context import Context
from shrinkc.training.distributed import World, joined
from shrinkc.training.evaluation import Metrics
from shrinkc.training.executor import Executor
from shrinkc.training.interfaces import Method, Phase, Rewriting, Rewritten
from shrinkc.training.interrupts import Interrupts
from shrinkc.training.lesson import Lesson
from shrinkc.training.lifting import lift_weights
from shrinkc.training.phases import carry_out, phases_with
from shrinkc.training.preparing import prepared
from shrinkc.training.samples import Samples
from shrinkc.training.scarcity import memory_counted
from shrinkc.training.settings import Settings
from shrinkc.training.threads import limited

NORMALISED, NORMALISED_AT_ONCE = 512, 64
"""Samples whose statistics opened normalisations begin with, and how many of them at a time."""

SPENT = "the budget is spent"
ENOUGH = "no better model was found any more"


@dataclass(frozen=True, eq=False)
class Trained:
    """What came out of a training run.

    Attributes
    ----------
    model : ir.Model
        With the best weights; if what came of them failed its proof, the graph that was trained.
    before, after : Metrics
        On the held-out samples.
    context : Context
    seconds : float
    error : ShrinkcError or None
        Why it ended before its time, or what the result failed.
    """

    model: ir.Model
    before: Metrics
    after: Metrics
    context: Context
    seconds: float
    error: ShrinkcError | None = None

    @property
    def n_trained(self) -> int:
        """Samples that were trained on, augmented copies not counted."""
        return self.context.n_trained

    @property
    def stopped(self) -> str:
        """Why training ended."""
        if self.error is not None:
            return self.error.message
        trainings = [record for record in self.context.records if "ended_early" in record]
        return self.context.stopped or (ENOUGH if trainings and trainings[-1]["ended_early"] else SPENT)


@dataclass(frozen=True, eq=False)
class InPlace:
    """A method at work on the very graph it was given."""

    method: Method
    lesson: Lesson

    def phases(self, context: Context) -> Sequence[Phase]:
        """See :class:`shrinkc.training.interfaces.Rewritten`."""
        return self.method.phases(context)

    def finished(self, context: Context, model: ir.Model) -> ir.Model:
        """See :class:`shrinkc.training.interfaces.Rewritten`."""
        return model


def trained(
    lesson: Lesson,
    settings: Settings,
    progress: Progress,
    checkpoint: Path | None = None,
    built: Callable[[str, Mapping[str, object]], Method | Rewriting] | None = None,
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
    TrainingError
        There is too little memory to begin, or the outputs are not finite already.
    ShrinkcError
        What the method finds wrong before or after the training.
    """
    make = built or method_of
    lift_weights(lesson.student)
    with limited(settings.threads), joined(settings.device) as world, Interrupts() as interrupts:
        with memory_counted():
            opened = reopened(lesson) if settings.norms != "given" else ()
        made = make(settings.method, settings.options)
        method = made.rewritten(lesson) if isinstance(made, Rewriting) else InPlace(made, lesson)
        with memory_counted(), _folded_on_failure(lesson.student, opened if settings.norms == "refolded" else ()):
            context = prepared(method.lesson, settings, world, progress, interrupts, checkpoint)
            started = time.perf_counter()
            before = _finite(context)
        context.keep_best()
        after, error = _carried_out(method, context, before)
        learnt = context.executor.write_back()
        try:
            model = method.finished(context, learnt)
        except VerificationError as failure:
            return Trained(learnt, before, after, context, time.perf_counter() - started, failure)
        if settings.norms == "refolded":
            fold_batch_norms(model, opened)
        return Trained(model, before, after, context, time.perf_counter() - started, error)


@contextmanager
def _folded_on_failure(student: ir.Model, opened: Sequence[str]) -> Iterator[None]:
    """Around what may fail before training begins: who looks at the student then finds no normalisations open."""
    try:
        yield
    except Exception:
        fold_batch_norms(student, opened)
        raise


def reopened(lesson: Lesson) -> tuple[str, ...]:
    """Put the normalisations that an exporter folded back into the student, in place, with the statistics of some samples.

    Raises
    ------
    RecipeError
        There are none to open.
    """
    names = check_openable(lesson.student)
    given = Samples.of(lesson.data)
    unit = fixed_batch(lesson.student) or 1
    few = given.take(torch.arange(max(unit, min(len(given), NORMALISED) // unit * unit)))
    parts = (part.inputs for part in few.parts(max(unit, NORMALISED_AT_ONCE // unit * unit)))
    return open_batch_norms(lesson.student, channel_statistics(Executor(lesson.student), parts, names))


def _finite(context: Context) -> Metrics:
    """Metrics to begin with.

    Raises
    ------
    TrainingError
        The model's outputs are not finite already.
    """
    found = context.evaluate()
    if not math.isfinite(found.loss):
        raise TrainingError(
            "the loss is not finite before the first step", because=f"loss {found.loss} on the held-out samples"
        )
    return found


def _carried_out(method: Rewritten, context: Context, before: Metrics) -> tuple[Metrics, TrainingError | None]:
    """Metrics in the end, and what broke the training off if anything did; the model then holds the best weights so far.

    Raises
    ------
    Exception
        Before the first step, if it is not about training: then nothing is lost.
    """
    try:
        with memory_counted():
            carry_out(phases_with(context.settings, method.phases(context)), context)
            if math.isfinite((after := context.evaluate()).loss):
                return after, None
            raise DivergedError("the loss is not finite", where="after the last step", hint="a lower learning rate")
    except Exception as error:  # whatever it was, the best weights so far shall not be lost
        if not context.steps_done and not isinstance(error, TrainingError):
            raise
        failure = _broken_off(error, context)
        return _seen_after(failure, context, before), failure


def _broken_off(error: Exception, context: Context) -> TrainingError:
    context.back_to_best()
    if isinstance(error, TrainingError):
        return error
    if isinstance(error, ShrinkcError):
        told = TrainingError(error.message, where=error.where, because=error.because, hint=error.hint)
    else:
        told = TrainingError("training broke off", because=f"{type(error).__name__}: {error}")
    told.__cause__ = error
    return told


def _seen_after(error: TrainingError, context: Context, before: Metrics) -> Metrics:
    """Metrics of the best weights so far; those it began with where what broke training breaks this as well."""
    context.world = World()  # of other processes nobody knows whether they are still there
    try:
        return context.evaluate()
    except Exception as another:
        error.because = f"{error.because}; the model could not be run afterwards: {another}"
        return before


def method_of(name: str, options: Mapping[str, object]) -> Method | Rewriting:
    """Training method by its plug-in's name, with its own settings."""
    factory = registry.load("training", name)
    method: Method | Rewriting = factory(**options)
    return method
