"""What a training method is made of.  Selector and Schedule live where their implementations do.

A published method is a :class:`Method`: phases, which use scorers, selectors, schedules, parametrizations and plugins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import onnx_ir as ir
import torch

from shrinkc.training.samples import Batch, Samples
from shrinkc.training.schedules import Schedule
from shrinkc.training.select import Selector

if TYPE_CHECKING:
    from shrinkc.training.context import Context
    from shrinkc.training.lesson import Lesson

Values = Mapping[str, torch.Tensor]


class Scorer(Protocol):
    """How much every weight matters; the lowest go first.

    One that has to watch training first is a :class:`Plugin` as well: it takes part in the phase before, and keeps what it
    sees in ``context.snapshots`` under a name of its own, which outlives the phase and goes into checkpoints.
    """

    def scores(self, context: Context) -> dict[str, torch.Tensor]:
        """A score for every weight under a mask, by name, laid out as it is stored."""


class Parametrization(Protocol):
    """The weights that the model computes with, out of those that are trained."""

    @property
    def is_dense(self) -> bool:
        """What is masked away stays in the trained weights and goes on learning; else they are zero there, always."""

    def effective(self, name: str, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Weight to compute with; gradients flow through it to ``weight``."""


class Signal(Enum):
    """What a plugin wants after looking."""

    GO_ON = "go on"
    STOP = "stop"


class Plugin:
    """Takes part in training; the base does nothing.

    Every step goes: ``on_batch``, forward, sum of the losses, backward, ``on_grad``, gradients masked, optimizer (unless
    :meth:`replaces_step`), weights and optimizer state masked, ``after_step``, and after an epoch's last ``on_epoch_end``.
    """

    def on_dataset(self, context: Context, samples: Samples) -> Samples:
        """The samples to train on in this phase; asked when it is resumed as well, so the answer must be the same then."""
        return samples

    def on_cycle_start(self, context: Context) -> None:
        """Before the first step of a training phase; not when one is resumed."""

    def on_batch(self, context: Context, batch: Batch) -> Batch:
        """The batch to use."""
        return batch

    def loss(self, context: Context, outputs: Values, batch: Batch) -> torch.Tensor | None:
        """Term to add to the loss."""
        return None

    def on_grad(self, context: Context, gradients: Values) -> None:
        """Read or change the gradients, dense, in place, before they are masked."""

    def replaces_step(self, context: Context) -> bool:
        """Whether the optimizer shall leave this step out."""
        return False

    def after_step(self, context: Context) -> Signal:
        """After weights and optimizer state are masked; ``context.step`` counts the steps done."""
        return Signal.GO_ON

    def on_epoch_end(self, context: Context) -> Signal:
        """After the last whole batch of an epoch; behind ``after_step`` of the same step."""
        return Signal.GO_ON

    def on_cycle_end(self, context: Context) -> None:
        """After the last step of a training phase."""

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors to take up from, by name."""
        return {}

    def facts(self) -> dict[str, object]:
        """Plain data to take up from."""
        return {}

    def restore(self, tensors: Values, facts: Mapping[str, object]) -> None:
        """Take up where :meth:`state` and :meth:`facts` were asked for."""


class Phase(Protocol):
    """One part of a recipe."""

    def run(self, context: Context) -> None:
        """Carry it out; between phases the context is all there is."""


@runtime_checkable
class Method(Protocol):
    """A published training method; a frozen dataclass whose fields are its settings.

    One whose result has weights masked away says ``leaves_weights_masked = True``: it is none for recovery.  One that nowhere
    keeps the best weights seen, because it means its last ones, says ``keeps_best = False``: ``patience`` is refused then.

    Attributes
    ----------
    name : str
    """

    name: ClassVar[str]

    def phases(self, context: Context) -> Sequence[Phase]:
        """What it does, in order."""


class Rewritten(Protocol):
    """A method at work on a graph that it made of the one it was given."""

    @property
    def lesson(self) -> Lesson:
        """What is trained in place of what was given, :attr:`Lesson.given` set."""

    def phases(self, context: Context) -> Sequence[Phase]:
        """What it does, in order."""

    def finished(self, context: Context, model: ir.Model) -> ir.Model:
        """What comes out: ``model`` is the graph that was trained, with what it learned; records may be added."""


@runtime_checkable
class Rewriting(Protocol):
    """A method that trains another graph than it was given; else as :class:`Method`, in its place.

    Attributes
    ----------
    name : str
    """

    name: ClassVar[str]

    def rewritten(self, lesson: Lesson) -> Rewritten:
        """Rewrite a copy of what is to be trained."""


__all__ = [
    "Method",
    "Parametrization",
    "Phase",
    "Plugin",
    "Rewriting",
    "Rewritten",
    "Schedule",
    "Scorer",
    "Selector",
    "Signal",
    "Values",
]
