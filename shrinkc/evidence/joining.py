"""One array per name out of many batches, which must be alike: one run has one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shrinkc.errors import CalibrationError

Batch = Mapping[str, np.ndarray]


def joined(batches: Sequence[tuple[str, Batch]]) -> dict[str, np.ndarray]:
    """Batches one after the other, by name.

    Parameters
    ----------
    batches : sequence of (str, mapping of name to ndarray)
        Where each batch is from, for the message, and its arrays, samples along the first axis.

    Raises
    ------
    CalibrationError
        The arrays of a batch differ in their number of samples, or a batch has other names, element types or sizes than
        the first one.
    """
    for where, batch in batches:
        _check_rows(batch, where)
    _, first = batches[0]
    for where, batch in batches[1:]:
        _check_alike(first, batch, where)
    return {name: np.concatenate([batch[name] for _, batch in batches]) for name in first}


def _check_rows(batch: Batch, where: str) -> None:
    shapes = {name: array.shape for name, array in batch.items()}
    if () in shapes.values() or len({shape[0] for shape in shapes.values()}) > 1:
        raise CalibrationError(
            "the arrays have different numbers of samples",
            where=where,
            because=f"expected samples along the first axis of all, found { ({name: list(shapes[name]) for name in shapes}) }",
        )


def _check_alike(first: Batch, batch: Batch, where: str) -> None:
    if batch.keys() != first.keys():
        raise CalibrationError(
            "batches with different names", where=where, because=f"expected {sorted(first)} as before, found {sorted(batch)}"
        )
    for name, array in batch.items():
        if _kind(array) != _kind(first[name]):
            raise CalibrationError(
                "samples of different sizes or element types",
                where=f"{where}: {name}",
                because=f"expected {_kind(first[name])} as before, found {_kind(array)}",
                hint="one run has one size: resize or pad the samples",
            )


def _kind(array: np.ndarray) -> str:
    """What has to be the same in all batches."""
    sizes = ", ".join(["samples", *map(str, array.shape[1:])]) if array.ndim else ""
    return f"{array.dtype} [{sizes}]"
