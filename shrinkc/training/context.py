"""What the parts of a training method share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from shrinkc.log import Progress, Silent
from shrinkc.training import state, streams
from shrinkc.training.checkpoint import Checkpoint, Checkpoints, named, under
from shrinkc.training.distributed import World
from shrinkc.training.evaluation import Metrics, evaluate
from shrinkc.training.feeding import Feeder
from shrinkc.training.field_types import of_right_types
from shrinkc.training.interfaces import Parametrization
from shrinkc.training.interrupts import Interrupts
from shrinkc.training.masks import MaskSet
from shrinkc.training.objective import Objective
from shrinkc.training.parametrization import Masked
from shrinkc.training.samples import Samples, Tensors
from shrinkc.training.settings import Settings
from shrinkc.training.teacher import Answers
from shrinkc.training.views import WeightView, weight_views

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shrinkc.training.executor import Executor

BEST = "best"
"""Snapshot of the best model so far."""

BEST_MASKS = "masks of the best"


@dataclass(eq=False)
class Context:
    """A model in training.

    Attributes
    ----------
    model, teacher : ir.Model
        As they came; what is learned lies in the executor.  There may be no teacher.
    executor : Executor
    settings : Settings
    feeder : Feeder
    objective : Objective
    judged : Samples
        Decide which model is the best; the teacher's ``answers`` on them beside.
    masks : MaskSet
        Empty until something is pruned.
    snapshots : dict of name to tensors
        Copies of the weights, and what scorers saw.
    records : list of dict
        What is told about every phase.
    evaluation_batch : int
    n_trained : int
        Samples to train on, augmented copies not counted.
    phase, cycle, step : int
        Where it is; ``cycle`` counts training phases, ``step`` those of the present one.
    steps_done : int
        Over all phases.
    done : float
        Share of the present training phase.
    stopped : str
        Why training ended, empty while it goes on.
    best_records : int
        How many records there were when the best model so far was kept.
    pending : Checkpoint or None
        What the present training phase is to go on from.
    parametrization : Parametrization
        Of the present training phase.
    """

    model: ir.Model
    executor: Executor
    settings: Settings
    feeder: Feeder
    objective: Objective
    judged: Samples
    answers: Answers
    world: World = field(default_factory=World)
    progress: Progress = field(default_factory=Silent)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    interrupts: Interrupts = field(default_factory=Interrupts)
    masks: MaskSet = field(default_factory=lambda: MaskSet({}))
    snapshots: dict[str, Tensors] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    evaluation_batch: int = 256
    n_trained: int = 0
    teacher: ir.Model | None = None
    phase: int = 0
    cycle: int = 0
    step: int = 0
    steps_done: int = 0
    done: float = 0.0
    stopped: str = ""
    best_records: int = 0
    pending: Checkpoint | None = None
    parametrization: Parametrization = field(default_factory=Masked)

    def __post_init__(self) -> None:
        self.views: list[WeightView] = weight_views(self.model)
        self.normalizations = state.normalizations(self.model)
        self.tensors: Tensors = state.live(self.executor)
        """The live tensors: parameters and statistics."""

    def weights(self, views: Sequence[WeightView]) -> Tensors:
        """Live weights of some views."""
        return {view.name: self.tensors[view.name] for view in views if view.name in self.tensors}

    def snapshot(self, name: str) -> None:
        """Keep a copy of everything as it is."""
        self.snapshots[name] = state.copied(self.tensors)

    def keep_best(self) -> None:
        """The model as it is, masks and all, is the best so far."""
        self.snapshot(BEST)
        self.snapshots[BEST_MASKS] = state.copied(self.masks)
        self.best_records = len(self.records)

    def back_to_best(self) -> None:
        """Be as when the best model so far was kept: what was told since then is no longer so."""
        self.put(self.snapshots[BEST])
        self.masks = MaskSet(self.snapshots[BEST_MASKS])
        del self.records[self.best_records :]
        self.parametrization = Masked()

    def put(self, values: Mapping[str, torch.Tensor]) -> None:
        """Write values into the live tensors."""
        state.put(self.tensors, values)

    def run(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Run the model in evaluation mode."""
        self.executor.eval()
        on_device = {name: tensor.to(self.settings.device) for name, tensor in inputs.items()}
        weights = self.effective(self.tensors)
        with self.drawing("evaluation"):
            found = self.executor(on_device, weights=weights)
        return {name: value.cpu() for name, value in found.items()}

    def few(self, most: int) -> Samples:
        """The first samples to train on: as many as make whole batches of a model of a fixed one.

        No last one stands alone in a part of :attr:`evaluation_batch`: normalised by itself it would say nothing.
        """
        samples, unit = self.feeder.samples, self.feeder.unit or 1
        count = max(unit, min(most, len(samples)) // unit * unit)
        if unit == 1 and count > 1 and count % self.evaluation_batch == 1:
            count -= 1
        return samples.take(torch.arange(count))

    def drawing(self, purpose: str, *place: int) -> AbstractContextManager[None]:
        """Around what runs operators that draw random numbers: the same at the same place, in every process."""
        return streams.drawing(self.settings.device, self.settings.seed, purpose, *place)

    def effective(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """Weights to compute with, None where those that are trained will do."""
        if not self.parametrization.is_dense:
            return None
        return {name: self.parametrization.effective(name, weights[name], mask) for name, mask in self.masks.items()}

    def evaluate(self) -> Metrics:
        """Metrics of the weights as they are, on the held-out samples; the first process's."""
        found = evaluate(self.run, self.objective.judging(), self.judged, self.answers, self.evaluation_batch)
        return Metrics.of(self.world.agreed(found.numbers(), self.settings.device))

    @contextmanager
    def fed_by(self, feeder: Feeder) -> Iterator[None]:
        """Other samples for a while."""
        before, self.feeder = self.feeder, feeder
        try:
            yield
        finally:
            self.feeder = before

    @contextmanager
    def with_weights(self, values: Mapping[str, torch.Tensor] | None) -> Iterator[None]:
        """Other weights for a while."""
        if values is None:
            yield
            return
        before = state.copied({name: self.tensors[name] for name in values})
        self.put(values)
        try:
            yield
        finally:
            self.put(before)

    def checkpoint(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Checkpoint:
        """Everything, with what the present phase adds of its own."""
        held = {**named("live/", self.tensors), **named("mask/", self.masks), **named("phase/", tensors)}
        for name, snapshot in self.snapshots.items():
            held.update(named(f"snapshot/{name}/", snapshot))
        own = {
            "phase": self.phase,
            "cycle": self.cycle,
            "step": self.step,
            "steps_done": self.steps_done,
            "records": self.records,
            "snapshots": list(self.snapshots),
            "best_records": self.best_records,
            "settings": self.settings.to_json(),
            "own": dict(facts),
        }
        return Checkpoint(held, own)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up where a checkpoint was written."""
        on_device = {name: tensor.to(self.settings.device) for name, tensor in checkpoint.tensors.items()}
        checkpoint = Checkpoint(on_device, checkpoint.facts)
        self.put(under("live/", checkpoint.tensors))
        self.masks = MaskSet(under("mask/", checkpoint.tensors))
        names = checkpoint.facts["snapshots"]
        held = {name: under(f"snapshot/{name}/", checkpoint.tensors) for name in names}
        self.snapshots = {name: state.laid_out_as(self.tensors, tensors) for name, tensors in held.items()}
        self.phase, self.cycle, self.step = (int(checkpoint.facts[name]) for name in ("phase", "cycle", "step"))
        self.best_records = int(checkpoint.facts["best_records"])
        self.settings = Settings(**of_right_types(checkpoint.facts["settings"], Settings, "checkpoint"))
        self.steps_done, self.records = int(checkpoint.facts["steps_done"]), list(checkpoint.facts["records"])
        if checkpoint.facts["own"]:
            self.pending = Checkpoint(under("phase/", checkpoint.tensors), checkpoint.facts["own"])
