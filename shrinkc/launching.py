"""Whether a launcher such as torchrun started several processes, and which of them this is; imports nothing."""

from __future__ import annotations

import os


def is_launched() -> bool:
    """Whether there are several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Number of this process; 0 where there is only one."""
    return int(os.environ.get("RANK", "0")) if is_launched() else 0
