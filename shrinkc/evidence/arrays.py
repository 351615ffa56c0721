"""Data in files of numpy: an ``.npz``, an ``.npy``, or a folder of either.

A folder holds one ``.npy`` per input, called after it (and ``labels.npy``), or it holds the samples file by file, which
are taken in the order of the file names: each ``.npz`` with the input names as keys, each ``.npy`` the only input of the
model.  Such a file is one sample if its arrays have one axis fewer than the model's input, else a batch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import onnx_ir as ir

from shrinkc.errors import CalibrationError
from shrinkc.evidence.data import LABELS, Data, IntArray, evenly_spaced, fixed_batch
from shrinkc.evidence.joining import joined
from shrinkc.shapes import real_inputs

SUFFIXES = (".npz", ".npy")
MAGIC = (b"PK", b"\x93NUMPY")
"""How archives of arrays and single ones begin."""

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]
Result = TypeVar("Result")


def read_file(path: Path, model: ir.Model) -> Data:
    """All samples of an ``.npz`` with the input names as keys and, optionally, ``labels``, or of an ``.npy``.

    Raises
    ------
    CalibrationError
        The file is unreadable, or one array is given to a model of several inputs.
    """
    return _data(_named(_guarded(_arrays, path), model, path), model, path)


def read_folder(folder: Path, model: ir.Model, most: int) -> Data:
    """At most ``most`` samples of a folder, evenly spaced over it; only what is taken stays in memory.

    Raises
    ------
    CalibrationError
        A file is unreadable, the files are not alike, or they are not called after the model's inputs.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if len({file.suffix for file in files}) > 1:
        raise CalibrationError("a folder of both .npz and .npy files", where=folder.name, hint="keep one kind of file in it")
    names = {value.name or "" for value in real_inputs(model)}
    if files[0].suffix == ".npy" and {file.stem for file in files} - {LABELS} == names - {LABELS}:
        return _one_file_per_input(files, folder, model, most)
    return _file_by_file(files, folder, model, most)


def _one_file_per_input(files: list[Path], folder: Path, model: ir.Model, most: int) -> Data:
    data = _data({file.stem: _guarded(_mapped, file) for file in files}, model, folder)
    return data.thinned(most, fixed_batch(model) or 1)


def _file_by_file(files: list[Path], folder: Path, model: ir.Model, most: int) -> Data:
    labels = _labels_beside(files, model)
    sizes = [_rows(_named(_guarded(_shapes, file), model, file), model, file) for file in files]
    if not sum(sizes):
        raise CalibrationError("no samples", where=folder.name)
    chosen = evenly_spaced(sum(sizes), most, fixed_batch(model) or 1)
    if labels is not None and len(labels) != sum(sizes):
        raise CalibrationError(
            "the arrays have different numbers of samples",
            where=folder.name,
            because=f"{sum(sizes)} in the files, {len(labels)} in {LABELS}.npy",
        )
    arrays = joined(list(_parts(files, sizes, chosen, model)))
    if labels is not None:
        arrays[LABELS] = labels[chosen]
    return _data(arrays, model, folder)


def _parts(files: list[Path], sizes: list[int], chosen: IntArray, model: ir.Model) -> Iterator[tuple[str, Arrays]]:
    """What is taken of each file; ``chosen`` counts through all of them."""
    start = 0
    for file, size in zip(files, sizes, strict=True):
        inside = chosen[(chosen >= start) & (chosen < start + size)] - start
        if len(inside):
            yield f"{file.parent.name}/{file.name}", _rows_at(file, model, inside)
        start += size


def _labels_beside(files: list[Path], model: ir.Model) -> np.ndarray | None:
    """Labels of a folder of ``.npy`` samples; the file is taken out of the list."""
    beside = [file for file in files if file.name == f"{LABELS}.npy"]
    if not beside or LABELS in {value.name for value in real_inputs(model)}:
        return None
    files.remove(beside[0])
    return np.atleast_1d(_guarded(_arrays, beside[0])[""])


def _rows_at(file: Path, model: ir.Model, indices: IntArray) -> Arrays:
    arrays = _named(_guarded(_arrays, file), model, file)
    if _is_one_sample({name: array.shape for name, array in arrays.items()}, model):
        arrays = {name: array[None] for name, array in arrays.items()}
    return {name: array[indices] for name, array in arrays.items()}


def _rows(shapes: Shapes, model: ir.Model, file: Path) -> int:
    """Number of samples in a file, by the shapes of its arrays."""
    if _is_one_sample(shapes, model):
        return 1
    sizes = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
    if len(set(sizes.values())) != 1:
        raise CalibrationError("the arrays have different numbers of samples", where=file.name, because=str(sizes))
    return next(iter(sizes.values()))


def _is_one_sample(shapes: Shapes, model: ir.Model) -> bool:
    ranks = {value.name: len(value.shape) for value in real_inputs(model) if value.shape is not None}
    return any(name in ranks and len(shape) == ranks[name] - 1 for name, shape in shapes.items())


def _named(arrays: dict[str, Result], model: ir.Model, path: Path) -> dict[str, Result]:
    """Arrays by input name; what an ``.npy`` holds is the only input."""
    if arrays.keys() != {""}:
        return arrays
    names = [value.name or "" for value in real_inputs(model)]
    if len(names) != 1:
        raise CalibrationError(
            "the data does not name the model's inputs",
            where=path.name,
            because=f"expected {sorted(names)}, found one array",
            hint="np.savez(path, INPUT_NAME=array, …), or a folder with INPUT_NAME.npy for every input",
        )
    return {names[0]: arrays[""]}


def _data(arrays: Arrays, model: ir.Model, path: Path) -> Data:
    labels = None if LABELS in {value.name for value in real_inputs(model)} else arrays.pop(LABELS, None)
    return Data(arrays, labels, path.name)


def _guarded(read: Callable[[Path], Result], path: Path) -> Result:
    try:
        return read(path)
    except Exception as error:  # numpy and zipfile raise many types on damaged files; all mean the same to a user
        raise CalibrationError(
            "the data cannot be read", where=str(path), because=str(error), hint="np.savez(path, INPUT_NAME=array, labels=…)"
        ) from error


def _arrays(path: Path) -> Arrays:
    """Arrays of an ``.npz`` by key, that of an ``.npy`` under the empty one."""
    with path.open("rb") as stream:
        if not stream.read(6).startswith(MAGIC):  # numpy would take it for a pickle, and say so
            raise ValueError("it is no array file")
        stream.seek(0)
        found = np.load(stream, allow_pickle=False)
        return {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}


def _mapped(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _shapes(path: Path) -> Shapes:
    """Shapes of the arrays of a file, of which only the headers are read."""
    if path.suffix == ".npy":
        with path.open("rb") as stream:
            return {"": _shape(stream)}
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy"): _shape(archive.open(name)) for name in archive.namelist()}


def _shape(stream: IO[Any]) -> tuple[int, ...]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape: tuple[int, ...] = read(stream)[0]
    return shape
