"""Samples as tensors, and which of them every step sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from shrinkc.evidence.data import Data
from shrinkc.training import streams

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step sees, on this process.

    Attributes
    ----------
    inputs : dict of input name to tensor
    index : int64 tensor of shape (samples,)
        Which samples they are.
    labels : int64 tensor of shape (samples,) or None
    targets : mapping of value name to tensor
        What the teacher makes of the same inputs.
    share : float
        Of the step's samples over all processes.
    """

    inputs: Tensors
    index: torch.Tensor
    labels: torch.Tensor | None
    targets: Mapping[str, torch.Tensor]
    share: float = 1.0

    @property
    def size(self) -> int:
        """Samples here."""
        return len(self.index)

    def parts(self, size: int | None) -> list[Batch]:
        """The batch in parts of ``size`` samples, each with its share of the step; the whole of it for None."""
        if size is None or size >= self.size:
            return [self]
        return [self._part(slice(start, start + size)) for start in range(0, self.size, size)]

    def _part(self, place: slice) -> Batch:
        index = self.index[place]
        return Batch(
            {name: tensor[place] for name, tensor in self.inputs.items()},
            index,
            None if self.labels is None else self.labels[place],
            {name: tensor[place] for name, tensor in self.targets.items()},
            self.share * len(index) / self.size,
        )


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples along the first axis of every tensor.

    Attributes
    ----------
    inputs : dict of input name to tensor
    labels : int64 tensor of shape (samples,) or None
    """

    inputs: Tensors
    labels: torch.Tensor | None

    @classmethod
    def of(cls, data: Data) -> Samples:
        """The samples of ``data``, not copied where torch can share their memory."""
        labels = None if data.labels is None else torch.from_numpy(np.asarray(data.labels, np.int64))
        return cls({name: _shared(array) for name, array in data.inputs.items()}, labels)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, index: torch.Tensor) -> Samples:
        """The samples at ``index``."""
        inputs = {name: tensor[index] for name, tensor in self.inputs.items()}
        return Samples(inputs, None if self.labels is None else self.labels[index])

    def parts(self, size: int) -> Iterator[Samples]:
        """Consecutive parts; the last one may be smaller."""
        for start in range(0, len(self), size):
            inputs = {name: tensor[start : start + size] for name, tensor in self.inputs.items()}
            yield Samples(inputs, None if self.labels is None else self.labels[start : start + size])


def _shared(array: np.ndarray) -> torch.Tensor:
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    return torch.from_numpy(native if native.flags.writeable else native.copy())


@dataclass(frozen=True)
class Order:
    """Which samples a step sees: every epoch in an order of its own, drawn from the seed.

    Attributes
    ----------
    n_samples, batch, seed, cycle : int
    unit : int
        Steps have a multiple of so many samples.
    """

    n_samples: int
    batch: int
    seed: int
    cycle: int = 0
    unit: int = 1

    @property
    def size(self) -> int:
        """Samples of a step: the batch, or all there are."""
        return max(1, min(self.batch, self.n_samples) // self.unit) * self.unit

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches; a remainder waits for an epoch that draws it earlier."""
        return max(1, self.n_samples // self.size)

    def index(self, step: int) -> torch.Tensor:
        """Samples of a step, int64 of shape (size,)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[place * self.size : (place + 1) * self.size]

    def epoch(self, epoch: int) -> torch.Tensor:
        """All samples, in the order of an epoch, int64 of shape (samples,)."""
        return streams.order(self.n_samples, self.seed, self.cycle, epoch)


def held_out(n_samples: int, share: float, batch: int, least: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices to train on and indices to judge by: runs of ``batch`` samples, one drawn out of every stretch of them.

    Always the same ones.  They are drawn because in files that go round the classes every so many-th sample may be of one
    class.  Both are all samples where fewer than ``least`` would be judged by, or nothing would be left to train on.
    """
    runs = n_samples // batch
    wanted = int(share * runs)
    if wanted * batch < least or wanted >= runs:
        every = torch.arange(n_samples)
        return every, every
    bounds = torch.arange(wanted + 1) * runs // wanted
    places = torch.rand(wanted, generator=streams.generator(0, "held out")) * (bounds[1:] - bounds[:-1])
    chosen = bounds[:-1] + places.long()
    is_judged = torch.isin(torch.arange(n_samples) // batch, chosen)
    return (~is_judged).nonzero()[:, 0], is_judged.nonzero()[:, 0]
