"""Memory that runs out, whatever raised it: an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shrinkc.errors import TrainingError


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
    except RuntimeError as error:  # torch's allocator on the processor has no type of its own
        if "allocate memory" in str(error):
            raise _scarce(error) from error
        raise


def _scarce(error: BaseException) -> TrainingError:
    return TrainingError("training needs more memory", because=str(error), hint="a smaller batch")
