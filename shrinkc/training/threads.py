"""How many processor threads torch may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def available() -> int:
    """Processors this process may run on, over the processes that a launcher started here."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def limited(threads: int) -> Iterator[int]:
    """Context in which torch uses so many threads; 0 for all there are."""
    before, wanted = torch.get_num_threads(), threads or available()
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)
