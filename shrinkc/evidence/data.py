"""Data for a model: arrays by input name, labels if there are any, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc.errors import CalibrationError
from shrinkc.shapes import real_inputs

LABELS = "labels"

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """Samples along the first axis of every array.

    Attributes
    ----------
    inputs : dict of input name to ndarray
    labels : ndarray of shape (samples,), int64, or None
    source : str
        Name of the file, folder or callable, for the report.
    class_names : tuple of str
        What the labels number, if they were given as names; empty if they were given as numbers.
    is_synthetic : bool
        The samples were made up; nothing measured on them says how accurate a model is.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None
    source: str
    class_names: tuple[str, ...] = ()
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

    def take(self, indices: IntArray) -> Data:
        """The samples at ``indices``, an int64 array of shape (taken,), with their labels."""
        inputs = {name: np.asarray(array[indices]) for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[indices])

    def thinned(self, most: int, batch: int) -> Data:
        """At most ``most`` samples, evenly spaced, in whole batches; unchanged if the arrays disagree on how many there are."""
        arrays = [*self.inputs.values(), *([] if self.labels is None else [self.labels])]
        if len({array.shape[:1] for array in arrays}) != 1 or not arrays[0].ndim:
            return self  # for the check to refuse, with the sizes that were found
        return self.take(evenly_spaced(self.n_samples, most, batch))

    def split(self, every: int, batch: int = 1) -> tuple[Data, Data]:
        """Samples to calibrate on and samples held out: one of every ``every``, always the same ones.

        Parameters
        ----------
        every : int
            At least 2; which of these many samples is held out is drawn with a fixed seed, because in files that go
            round the classes every ``every``-th sample may be of one class.
        batch : int
            Size of the runs of consecutive samples that stay together, for models of a fixed batch.

        Raises
        ------
        CalibrationError
            There are fewer than ``every`` batches.
        """
        n_runs = self.n_samples // batch // every
        if n_runs == 0:
            raise CalibrationError(
                "too few samples to hold some out",
                where=self.source,
                because=f"expected at least {every * batch}, found {self.n_samples}",
            )
        held_out = np.arange(n_runs) * every + np.random.default_rng(0).integers(every, size=n_runs)
        is_held_out = np.isin(np.arange(self.n_samples) // batch, held_out)
        return self.take(np.flatnonzero(~is_held_out)), self.take(np.flatnonzero(is_held_out))


def evenly_spaced(total: int, most: int, batch: int = 1) -> IntArray:
    """Indices of at most ``most`` of ``total`` samples, in order, as many as make whole batches.

    Returns
    -------
    ndarray of shape (chosen,), int64
        One batch if ``most`` is less than that; all samples if there is no whole batch.
    """
    chosen = min(total, max(most, batch))
    chosen = chosen - chosen % batch or total
    return np.arange(chosen) * total // chosen


def check_labels(data: Data, outputs: Sequence[tuple[int, ...] | None]) -> None:
    """Refuse labels that belong to no output; ``outputs`` are shapes, None where unknown.

    Raises
    ------
    CalibrationError
        No output has the shape (samples, classes) with a class for every label, or as many classes as there are names.
    """
    if data.labels is None or any(shape is None for shape in outputs):
        return
    if data.class_names:
        _check_class_names(data, outputs)
    largest = int(data.labels.max())
    if not any(shape is not None and len(shape) == 2 and shape[1] > largest for shape in outputs):
        shapes = [list(shape or ()) for shape in outputs]
        raise CalibrationError(
            "the labels fit no output", where=f"{data.source}: {LABELS}", because=f"labels up to {largest}, outputs {shapes}"
        )


def _check_class_names(data: Data, outputs: Sequence[tuple[int, ...] | None]) -> None:
    """Names are numbered in their order, which is only right if all of the model's classes are there."""
    expected = [shape[1] for shape in outputs if shape is not None and len(shape) == 2]
    if len(data.class_names) not in expected:
        wanted = " or ".join(map(str, expected)) or "an output of classes"
        raise CalibrationError(
            "the class folders are not the model's classes",
            where=data.source,
            because=f"expected {wanted}, found {len(data.class_names)} folders",
            hint="name the folders by class number (0, 1, …), or put all images into one folder, without labels",
        )


def _check_label_array(labels: np.ndarray, source: str) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or (labels.size and labels.min() < 0):
        raise CalibrationError(
            "labels must be class numbers",
            where=f"{source}: {LABELS}",
            because=f"expected whole numbers from 0, shape [samples]; found {labels.dtype}, shape {list(labels.shape)}",
            hint="turn one-hot rows into numbers with argmax(1)",
        )


def check(data: Data, model: ir.Model, at_least: int = 1) -> None:
    """Refuse data that cannot be fed to the model.

    Raises
    ------
    CalibrationError
        Names, shapes, element types or numbers of samples are not the model's, values are not finite, or there are
        fewer than ``at_least`` samples.
    """
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
    if data.n_samples < at_least:
        raise CalibrationError(
            "too few samples", where=data.source, because=f"expected at least {at_least}, found {data.n_samples}"
        )


def _check_array(name: str, array: np.ndarray, value: ir.Value, data: Data) -> None:
    where = f"{data.source}: {name}"
    dtype = None if value.dtype is None else value.dtype.numpy()
    if dtype is not None and array.dtype != dtype:
        raise CalibrationError(
            "wrong element type",
            where=where,
            because=f"expected {dtype}, found {array.dtype}",
            hint=_conversion(dtype, array.dtype),
        )
    declared = None if value.shape is None else [dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape]
    if declared is not None and not _fits(array.shape, declared):
        raise CalibrationError("wrong shape", where=where, because=f"expected {_show(declared)}, found {list(array.shape)}")
    if array.ndim == 0 or array.size == 0:
        raise CalibrationError("no samples", where=where)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise CalibrationError("the data holds NaN or infinity", where=where)


def _conversion(expected: np.dtype[Any], found: np.dtype[Any]) -> str:
    if np.issubdtype(expected, np.floating) and np.issubdtype(found, np.integer):
        return "scale the pixels as in training, or give a folder of images and --preprocess"
    return f"array.astype(np.{expected})"


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
