"""More than one process: every one sees its share of each step's samples, and gradients are summed up.

Started by ``torchrun``; with one process nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as torch_distributed

from shrinkc.errors import RuntimeUnavailable
from shrinkc.launching import is_launched


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes
    ----------
    rank, size : int
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def own(self, index: torch.Tensor, unit: int = 1) -> torch.Tensor:
        """Samples of a step that fall to this process: consecutive ones, a multiple of ``unit``."""
        return index.reshape(-1, unit).tensor_split(self.size)[self.rank].reshape(-1)

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Add up tensors over all processes, in place, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        torch_distributed.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.reshape(tensor.shape))

    def same_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every process the tensors of the first, in place."""
        if self.size > 1:
            for tensor in tensors:
                torch_distributed.broadcast(tensor.data, 0)


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The processes that were launched together, connected by gloo (nccl for ``cuda``).

    Raises
    ------
    RuntimeUnavailable
        They cannot be connected.
    """
    if not is_launched():
        yield World()
        return
    is_ours = not torch_distributed.is_initialized()
    try:
        if is_ours:
            torch_distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise RuntimeUnavailable("the processes cannot be connected", because=str(error), hint="start with torchrun") from error
    try:
        yield World(torch_distributed.get_rank(), torch_distributed.get_world_size())
    finally:
        if is_ours:
            torch_distributed.destroy_process_group()
