"""Gradients of a loss by stored tensor, from whoever can compute them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from shrinkc.analysis.groups import Analysis, stored_tensors
from shrinkc.api import FloatArray
from shrinkc.errors import CalibrationError


def load(path: str | os.PathLike[str], analysis: Analysis) -> dict[str, FloatArray]:
    """Read an ``.npz`` of arrays under the names of stored tensors, one sample (or batch) along the first axis.

    Raises
    ------
    CalibrationError
        The file is unreadable, names a tensor that the model lacks, or an array has another shape or is not finite.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise CalibrationError("the gradients cannot be read", where=str(path), because=str(error)) from error
    shapes = {value.name: analysis.shadow.shape(value) for value in stored_tensors(analysis.model)}
    for name, array in arrays.items():
        where = f"{Path(path).name}: {name}"
        if name not in shapes:
            raise CalibrationError("gradients of a tensor that the model lacks", where=where)
        if array.shape[1:] != shapes[name]:
            expected = ["samples", *(shapes[name] or ())]
            raise CalibrationError("wrong shape", where=where, because=f"expected {expected}, found {list(array.shape)}")
        if not np.isfinite(array).all():
            raise CalibrationError("the gradients hold NaN or infinity", where=where)
    return arrays
