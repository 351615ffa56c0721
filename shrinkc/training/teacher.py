"""The teacher: the original model, in evaluation mode, and what it said already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch

from shrinkc import ir as shrinkc_ir
from shrinkc.api import RunConfig, RuntimeAdapter
from shrinkc.training.distill import Feature
from shrinkc.training.samples import Samples, Tensors

Forward = Callable[[Tensors], Mapping[str, torch.Tensor]]
"""Values by name, for a batch of inputs."""


@dataclass(eq=False)
class Teacher:
    """Answers for inputs, in batches that the model takes.

    Attributes
    ----------
    forward : callable of inputs to values
    features : sequence of Feature
    unit : int or None
        Samples that it takes at a time, None for any.
    outputs : frozenset of str or None
        That are told, None for all of them.
    """

    forward: Forward
    features: Sequence[Feature] = ()
    unit: int | None = None
    outputs: frozenset[str] | None = None

    def targets(self, inputs: Tensors) -> Tensors:
        """Outputs, and the channels of the values inside that the student has too; no numbers without an axis."""
        total = len(next(iter(inputs.values())))
        if self.unit is None or total <= self.unit:
            return self._targets(inputs)
        places = [slice(start, start + self.unit) for start in range(0, total, self.unit)]
        parts = [self._targets({name: tensor[place] for name, tensor in inputs.items()}) for place in places]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _targets(self, inputs: Tensors) -> Tensors:
        with torch.no_grad():
            values = dict(self.forward(inputs))
        told = {feature.name: feature.of_teacher(values[feature.name]) for feature in self.features}
        outputs = {name: value for name, value in values.items() if self.outputs is None or name in self.outputs}
        return {name: value for name, value in {**outputs, **told}.items() if value.ndim}

    def answers(self, samples: Samples, batch: int) -> Tensors:
        """Targets for all samples, one after the other along the first axis."""
        parts = [self.targets(part.inputs) for part in samples.parts(batch)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(eq=False)
class Answers:
    """What a teacher said about some samples.

    Attributes
    ----------
    values : dict of value name to tensor
        Samples along the first axis.
    """

    values: Tensors = field(default_factory=dict)

    def at(self, index: torch.Tensor) -> Tensors:
        """Of the samples at ``index``."""
        return {name: value[index] for name, value in self.values.items()}


@dataclass(eq=False)
class Asked:
    """Answers for samples that come again, all of which there is room for: a teacher is asked when one is first wanted.

    It is asked in blocks that do not depend on what is wanted when, so that a run that was taken up again is told the same,
    bit by bit.  Blocks in the order of the first epoch are the batches of that epoch: nothing is asked too early.

    Attributes
    ----------
    teacher : Teacher
    samples : Samples
    order : int64 tensor of shape (samples,)
        The samples, block after block.
    block : int
        Samples.
    """

    teacher: Teacher
    samples: Samples
    order: torch.Tensor
    block: int
    _values: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._block_of = torch.empty_like(self.order)
        self._block_of[self.order] = torch.arange(len(self.order)) // self.block
        self._is_known = torch.zeros(-(-len(self.order) // self.block), dtype=torch.bool)

    def at(self, index: torch.Tensor) -> Tensors:
        """Targets for the samples at ``index``."""
        wanted = torch.unique(self._block_of[index])
        for number in wanted[~self._is_known[wanted]].tolist():
            self._ask(number)
        return {name: value[index] for name, value in self._values.items()}

    def _ask(self, number: int) -> None:
        index = self.order[number * self.block : (number + 1) * self.block]
        for name, value in self.teacher.targets(self.samples.take(index).inputs).items():
            if name not in self._values:
                self._values[name] = value.new_empty((len(self.order), *value.shape[1:]))
            self._values[name][index] = value
        self._is_known[number] = True


def by_runtime(model: ir.Model, runtime: RuntimeAdapter, inside: Sequence[str], threads: int) -> Forward:
    """Values that a runtime computes: outputs and, besides, those named."""
    session = runtime.load(shrinkc_ir.loadable(with_outputs(model, inside)), RunConfig(threads=threads))

    def forward(inputs: Tensors) -> Mapping[str, torch.Tensor]:
        found = session.run({name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(np.asarray(value)) for name, value in found.items()}

    return forward


def with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Copy of a model with further outputs."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    known = {value.name for value in copy.graph.outputs}
    copy.graph.outputs.extend(values[name] for name in names if name not in known)
    return copy
