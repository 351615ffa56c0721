"""Memory that runs out, whatever raised it: an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shrinkc.errors import TrainingError

ALLOCATORS = ("allocate memory", "bad_alloc", "bad allocation")
"""What allocators say that have nothing left."""


@contextmanager
def memory_counted() -> Iterator[None]:
    """Around anything that may want more memory than there is.

    Raises
    ------
    TrainingError
        It did.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _scarce(error) from error
    except Exception as error:  # neither torch's allocator on the processor nor onnxruntime's has a type of its own
        if any(text in str(error) for text in ALLOCATORS):
            raise _scarce(error) from error
        raise


def _scarce(error: BaseException) -> TrainingError:
    return TrainingError("training needs more memory", because=str(error), hint="a smaller batch")
