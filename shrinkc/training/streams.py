"""Random numbers by place: every draw is a function of the seed, of what it is for, and of the step.

Nothing has to be stored to take up a run where it stopped, and every process of a distributed run draws the same.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
import torch


def generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """Generator for one purpose at one place (cycle, epoch, step, whatever numbers it)."""
    mixed = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *place]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0] >> 1))


@lru_cache(maxsize=2)
def order(n_samples: int, seed: int, cycle: int, epoch: int) -> torch.Tensor:
    """Order of the samples in an epoch, int64 of shape (samples,)."""
    return torch.randperm(n_samples, generator=generator(seed, "order", cycle, epoch))
