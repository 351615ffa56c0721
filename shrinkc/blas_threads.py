"""How many threads products of matrices and solutions of systems run on: every number of them puts sums together otherwise.

The difference is in the last bits, but a plan that is carried out again shall give the same file; so it remembers the number.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


def number() -> int:
    """Threads of BLAS as it is set now; 0 where that cannot be told."""
    from scipy import linalg  # noqa: F401  # scipy has a BLAS of its own, found only once it is there
    from threadpoolctl import threadpool_info

    return max((int(found["num_threads"]) for found in threadpool_info() if found["user_api"] == "blas"), default=0)


def limited(threads: int) -> AbstractContextManager[object]:
    """As many threads as some other run had, more or fewer; 0 leaves the number as it is.

    Parameters
    ----------
    threads : int
    """
    from scipy import linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    return threadpool_limits(threads, user_api="blas") if threads else nullcontext()
