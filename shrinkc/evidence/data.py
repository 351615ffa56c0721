"""Data for a model: arrays by input name, labels if there are any, checked before anything is computed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from shrinkc.errors import CalibrationError
from shrinkc.shapes import real_inputs

LABELS = "labels"


@dataclass(frozen=True)
class Data:
    """Samples along the first axis of every array.

    Attributes
    ----------
    inputs : dict of input name to ndarray
    labels : ndarray of shape (samples,), int64, or None
    source : str
        Name of the file, for the report.
    is_synthetic : bool
        Whether the samples were made up from the model.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None
    source: str
    is_synthetic: bool = False

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """Consecutive batches; a remainder smaller than ``size`` comes last."""
        for start in range(0, self.n_samples, size):
            yield {name: array[start : start + size] for name, array in self.inputs.items()}

    def head(self, size: int) -> dict[str, np.ndarray]:
        """The first ``size`` samples."""
        return {name: array[:size] for name, array in self.inputs.items()}


def load(path: str | os.PathLike[str], model: ir.Model) -> Data:
    """Read an ``.npz`` with the model's input names as keys and, optionally, ``labels``.

    Raises
    ------
    CalibrationError
        The file is unreadable or its arrays do not fit the model.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise CalibrationError(
            "the data cannot be read", where=str(path), because=str(error), hint="np.savez(path, INPUT_NAME=array, labels=…)"
        ) from error
    labels = arrays.pop(LABELS, None) if LABELS not in {value.name for value in real_inputs(model)} else None
    data = Data(arrays, labels, path.name)
    _check(data, model)
    return data


def check_labels(data: Data, outputs: Sequence[tuple[int, ...] | None]) -> None:
    """Refuse labels that belong to no output; ``outputs`` are shapes, None where unknown.

    Raises
    ------
    CalibrationError
        No output has the shape (samples, classes) with a class for every label.
    """
    if data.labels is None or any(shape is None for shape in outputs):
        return
    largest = int(data.labels.max())
    if not any(shape is not None and len(shape) == 2 and shape[1] > largest for shape in outputs):
        shapes = [list(shape or ()) for shape in outputs]
        raise CalibrationError(
            "the labels fit no output", where=f"{data.source}: {LABELS}", because=f"labels up to {largest}, outputs {shapes}"
        )


def _check_label_array(labels: np.ndarray, source: str) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or (labels.size and labels.min() < 0):
        raise CalibrationError(
            "labels must be class numbers",
            where=f"{source}: {LABELS}",
            because=f"expected whole numbers from 0, shape [samples]; found {labels.dtype}, shape {list(labels.shape)}",
            hint="turn one-hot rows into numbers with argmax(1)",
        )


def _check(data: Data, model: ir.Model) -> None:
    if data.labels is not None:
        _check_label_array(data.labels, data.source)
    expected = {value.name or "": value for value in real_inputs(model)}
    if data.inputs.keys() != expected.keys():
        raise CalibrationError(
            "the data does not name the model's inputs",
            where=data.source,
            because=f"expected {sorted(expected)}, found {sorted(data.inputs)}",
        )
    for name, array in data.inputs.items():
        _check_array(name, array, expected[name], data)
    sizes = {name: len(array) for name, array in data.inputs.items()}
    if data.labels is not None:
        sizes[LABELS] = len(data.labels)
    if len(set(sizes.values())) != 1:
        raise CalibrationError("the arrays have different numbers of samples", where=data.source, because=str(sizes))


def _check_array(name: str, array: np.ndarray, value: ir.Value, data: Data) -> None:
    where = f"{data.source}: {name}"
    dtype = None if value.dtype is None else value.dtype.numpy()
    if dtype is not None and array.dtype != dtype:
        raise CalibrationError("wrong element type", where=where, because=f"expected {dtype}, found {array.dtype}")
    declared = None if value.shape is None else [dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape]
    if declared is not None and not _fits(array.shape, declared):
        raise CalibrationError("wrong shape", where=where, because=f"expected {_show(declared)}, found {list(array.shape)}")
    if array.size == 0:
        raise CalibrationError("no samples", where=where)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise CalibrationError("the data holds NaN or infinity", where=where)


def _fits(shape: tuple[int, ...], declared: list[int | None]) -> bool:
    """Whether samples of the shape can be fed; the first axis may be any multiple of a fixed batch."""
    if len(shape) != len(declared) or not shape:
        return False
    batch_fits = declared[0] is None or shape[0] % declared[0] == 0
    return batch_fits and all(fixed in (None, size) for fixed, size in zip(declared[1:], shape[1:], strict=True))


def _show(declared: list[int | None]) -> str:
    first = "samples" if declared[0] is None else f"a multiple of {declared[0]}"
    return "[" + ", ".join([first, *("any" if dim is None else str(dim) for dim in declared[1:])]) + "]"


def fixed_batch(model: ir.Model) -> int | None:
    """Batch size the model insists on, None if it is free."""
    for value in real_inputs(model):
        if value.shape is not None and len(value.shape) and isinstance(value.shape[0], int) and value.shape[0] > 0:
            return int(value.shape[0])
    return None
