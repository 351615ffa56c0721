"""What every step sees: samples, augmented if asked, and the teacher's targets for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from shrinkc.training import streams
from shrinkc.training.augment import augmented, is_image
from shrinkc.training.distributed import World
from shrinkc.training.samples import Batch, Order, Samples, Tensors
from shrinkc.training.settings import Settings
from shrinkc.training.teacher import Asked, Teacher

POOL_BYTES = 1 << 30
"""Most bytes of samples with their augmented copies."""


@dataclass(eq=False)
class Feeder:
    """Batches by step.

    Attributes
    ----------
    samples : Samples
        To train on.
    settings : Settings
    world : World
    batch : int
        Samples of a step.
    teacher : Teacher or None
    asked : Asked or None
        Keeps what the teacher said about ``samples``; None where it is asked in every step.
    is_augmented : bool
        Every step draws its own augmentation.
    unit : int or None
        Samples that the model takes at a time, None for any.
    """

    samples: Samples
    settings: Settings
    world: World
    batch: int
    teacher: Teacher | None = None
    asked: Asked | None = None
    is_augmented: bool = False
    unit: int | None = None

    def of(self, samples: Samples) -> Feeder:
        """The same of other samples, about which the teacher is asked in every step."""
        return self if samples is self.samples else replace(self, samples=samples, asked=None)

    def order(self, cycle: int) -> Order:
        """Order of the samples in a cycle."""
        return Order(len(self.samples), self.batch, self.settings.seed, cycle, self.unit or 1)

    def rows(self, cycle: int) -> tuple[range, int]:
        """Which samples of a step are this process's, and how many a step has."""
        total = self.order(cycle).size
        own = self.world.own(torch.arange(total), self.unit or 1)
        return range(int(own[0]), int(own[-1]) + 1), total

    def at(self, cycle: int, step: int) -> Batch:
        """The batch of a step, this process's share of it."""
        index = self.order(cycle).index(step)
        part = self.samples.take(index)
        inputs = part.inputs
        if self.is_augmented:
            # Every process draws for the whole step, so that the result does not depend on how many there are.
            inputs = augmented(inputs, self.settings.augment, self.settings.shift, self._generator(cycle, step))
        own = self.world.own(torch.arange(len(index)), self.unit or 1)
        if len(own) < len(index):
            inputs = {name: tensor[own] for name, tensor in inputs.items()}
        # What a mixture of two images should be called nobody knows but the teacher.
        inputs = {name: laid_out(tensor) for name, tensor in inputs.items()}
        labels = None if part.labels is None or "mix" in self.settings.augment else part.labels[own]
        index = index[own]
        return Batch(inputs, index, labels, self._targets(inputs, index), len(own) / max(1, self.order(cycle).size))

    def _targets(self, inputs: Tensors, index: torch.Tensor) -> Tensors:
        if self.asked is not None:
            return self.asked.at(index)
        return {} if self.teacher is None else self.teacher.targets(inputs)

    def _generator(self, cycle: int, step: int) -> torch.Generator:
        return streams.generator(self.settings.seed, "augment", cycle, step)


def pooled(samples: Samples, settings: Settings, size: int) -> Samples:
    """Samples with augmented copies, up to ``size`` of them and as many as fit into memory; they themselves come first.

    Labels go along, which is right for shifted and flipped images, not for mixed ones: those are for distillation.
    """
    room = POOL_BYTES // max(1, sum(tensor.nbytes for tensor in samples.inputs.values()))
    copies = min(size // max(1, len(samples)), room) if settings.augment else 1
    if copies <= 1 or not any(is_image(tensor) for tensor in samples.inputs.values()):
        return samples
    parts = [samples.inputs]
    for number in range(1, copies):
        draw = streams.generator(settings.seed, "pool", number)
        parts.append(augmented(samples.inputs, settings.augment, settings.shift, draw))
    inputs = {name: torch.cat([part[name] for part in parts]) for name in samples.inputs}
    return Samples(inputs, None if samples.labels is None else samples.labels.repeat(copies))


def laid_out(tensor: torch.Tensor) -> torch.Tensor:
    """Images with their channels last in memory."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def moved(batch: Batch, device: str) -> Batch:
    """The batch on a device."""
    if device == "cpu":
        return batch

    def put(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=True)

    inputs = {name: put(tensor) for name, tensor in batch.inputs.items()}
    targets = {name: put(tensor) for name, tensor in batch.targets.items()}
    return Batch(inputs, batch.index, None if batch.labels is None else put(batch.labels), targets, batch.share)
