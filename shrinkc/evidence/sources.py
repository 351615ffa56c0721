"""Where data comes from: a file or folder of numpy's, a folder of images, or a callable."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir

from shrinkc.errors import CalibrationError, RecipeError
from shrinkc.evidence import arrays, callables, images
from shrinkc.evidence.data import Data, check, fixed_batch

DEFAULT_MOST = 1024
"""Samples read of a folder or callable when nobody says how many; calibration gains little from more."""

Source = str | os.PathLike[str]


def load(source: Source, model: ir.Model, *, preprocess: str | None = None, most: int | None = None, at_least: int = 1) -> Data:
    """Samples of any source, checked against the model.

    Parameters
    ----------
    source : str or path
        ``.npz``, ``.npy``, a folder of either, a folder of images, or ``module:callable``.
    model : ir.Model
    preprocess : str, optional
        How images become inputs: name of a preset, or a TOML file; needed for a folder of images.
    most : int, optional
        Most samples to read, evenly spaced over a file or folder, the first ones of a callable; by default all of a file
        and 1024 of anything else.
    at_least : int
        Fewer samples are refused.

    Raises
    ------
    CalibrationError
        The source is unreadable, or what it holds does not fit the model.
    RecipeError
        ``preprocess`` names no preset, or its file is wrong.
    """
    data = _read(source, model, preprocess, most)
    check(data, model, at_least)
    return data


def load_given(
    data: Source | None,
    eval_data: Source | None,
    model: ir.Model,
    preprocess: str | None = None,
    most: int | None = None,
) -> tuple[Data | None, Data | None]:
    """Samples to look at the model with, and samples to measure quality on: the same, if only the former are given.

    Raises
    ------
    CalibrationError
        As :func:`load`.
    RecipeError
        A setting would have no effect.
    """
    refuse_idle(data, eval_data, preprocess, most)
    found = None if data is None else load(data, model, preprocess=preprocess, most=most)
    if eval_data is None:
        return found, found
    return found, load(eval_data, model, preprocess=preprocess, most=most)


def refuse_idle(data: Source | None, eval_data: Source | None, preprocess: str | None, most: int | None) -> None:
    """Refuse settings that no source looks at.

    Raises
    ------
    RecipeError
    """
    given = [source for source in (data, eval_data) if source is not None]
    if most is not None and most < 1:
        raise RecipeError("must be at least 1", where=f"--samples {most}")
    if most is not None and not given:
        raise RecipeError("would have no effect without data", where="--samples", hint="--data SOURCE")
    if preprocess is not None and not any(images.is_image_folder(Path(source)) for source in given):
        raise RecipeError("would have no effect without a folder of images", where="--preprocess", hint="--data FOLDER")


def _read(source: Source, model: ir.Model, preprocess: str | None, most: int | None) -> Data:
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, model, preprocess, most or DEFAULT_MOST)
    if not path.exists() and callables.is_named(os.fspath(source)):
        return callables.read(os.fspath(source), model, most or DEFAULT_MOST)
    data = arrays.read_file(path, model)
    return data if most is None else data.thinned(most, fixed_batch(model) or 1)


def _read_folder(folder: Path, model: ir.Model, preprocess: str | None, most: int) -> Data:
    has_arrays = any(file.suffix in arrays.SUFFIXES for file in folder.iterdir())
    has_images = images.is_image_folder(folder)
    if has_arrays and has_images:
        raise CalibrationError("a folder of both arrays and images", where=str(folder), hint="keep one of them in it")
    if has_images:
        return images.read_folder(folder, model, preprocess, most)
    if has_arrays:
        return arrays.read_folder(folder, model, most)
    found = ", ".join(sorted(file.name for file in folder.iterdir())[:3]) or "nothing"
    raise CalibrationError(
        "the folder holds no data", where=str(folder), because=f"expected .npz, .npy or images, found {found}"
    )
