"""Random numbers by place: every draw is a function of the seed, of what it is for, and of the step.

Nothing has to be stored to take up a run where it stopped, and every process of a distributed run draws the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch


def generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """Generator for one purpose at one place (cycle, epoch, step, whatever numbers it)."""
    return torch.Generator().manual_seed(_mixed(seed, purpose, *place))


@contextmanager
def drawing(device: str, seed: int, purpose: str, *place: int) -> Iterator[None]:
    """Around operators that draw from torch's own generators: they draw by place too, and nobody else's draws change."""
    generators = [torch.default_generator]
    if device == "cuda":
        generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(_mixed(seed, purpose, *place))
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _mixed(seed: int, purpose: str, *place: int) -> int:
    mixed = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *place]).generate_state(1, np.uint64)
    return int(mixed[0] >> 1)


@lru_cache(maxsize=2)
def order(n_samples: int, seed: int, cycle: int, epoch: int) -> torch.Tensor:
    """Order of the samples in an epoch, int64 of shape (samples,)."""
    return torch.randperm(n_samples, generator=generator(seed, "order", cycle, epoch))
