"""Data from the user's own code: ``module:callable``, called without arguments, gives batches as dicts of arrays.

Each dict is one batch, samples along the first axis, with the input names as keys and, optionally, ``labels``.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import onnx_ir as ir

from shrinkc.errors import CalibrationError
from shrinkc.evidence.data import LABELS, Data, evenly_spaced, fixed_batch
from shrinkc.evidence.joining import joined
from shrinkc.shapes import real_inputs

NAMED = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)")

Arrays = dict[str, np.ndarray]


def is_named(source: str) -> bool:
    """Whether a text has the form ``module:callable``."""
    return NAMED.fullmatch(source) is not None


def read(source: str, model: ir.Model, most: int) -> Data:
    """The first ``most`` samples that the callable yields; it is asked for no more.

    Parameters
    ----------
    source : str
        ``module:callable``; the module may lie in the current folder.
    model : ir.Model
    most : int

    Raises
    ------
    CalibrationError
        The module or callable is not there, raises, or yields something else than dicts of arrays that are alike.
    """
    batches: list[tuple[str, Arrays]] = []
    with _users_code(source):
        for batch in _batches(source):
            batches.append((f"{source}, batch {len(batches)}", batch))
            if sum(map(_rows, (arrays for _, arrays in batches))) >= most:
                break
    if not batches:
        raise CalibrationError("no samples", where=source, because="expected dicts of arrays, found an empty sequence")
    return _data(joined(batches), source, model, most)


def _data(arrays: Arrays, source: str, model: ir.Model, most: int) -> Data:
    n_taken = len(evenly_spaced(_rows(arrays), most, fixed_batch(model) or 1))
    arrays = {name: array[:n_taken] for name, array in arrays.items()}
    labels = None if LABELS in {value.name for value in real_inputs(model)} else arrays.pop(LABELS, None)
    return Data(arrays, labels, source)


@contextlib.contextmanager
def _users_code(source: str) -> Iterator[None]:
    """Where the user's code runs: it finds modules of the current folder, and what it prints is not our output."""
    sys.path.insert(0, "")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except CalibrationError:
        raise
    except (Exception, SystemExit) as error:
        raise CalibrationError(
            "the callable that yields the data failed", where=source, because=f"{type(error).__name__}: {error}"
        ) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove("")


def _batches(source: str) -> Iterator[Arrays]:
    found = _find(source)()
    if isinstance(found, Mapping) or not hasattr(found, "__iter__"):
        raise CalibrationError(
            "the callable must yield dicts of arrays",
            where=source,
            because=f"expected an iterable, found {type(found).__name__}",
        )
    for batch in found:
        yield _arrays(batch, source)


def _find(source: str) -> Any:
    found = NAMED.fullmatch(source)
    if found is None:
        raise CalibrationError("not the name of a callable", where=source, hint="module:callable")
    owner: Any = importlib.import_module(found["module"])
    for name in found["name"].split("."):
        if not hasattr(owner, name):
            close = get_close_matches(name, dir(owner), 1)
            raise CalibrationError(
                "no such callable", where=source, because=f"{found['module']} has no {name}", hint=close[0] if close else ""
            )
        owner = getattr(owner, name)
    if not callable(owner):
        raise CalibrationError(
            "not a callable", where=source, because=f"expected a function without arguments, found {type(owner).__name__}"
        )
    return owner


def _arrays(batch: Any, source: str) -> Arrays:
    if not isinstance(batch, Mapping):
        raise CalibrationError(
            "the callable must yield dicts of arrays",
            where=source,
            because=f"expected a dict with the input names as keys, found {type(batch).__name__}",
        )
    # Copied, for loaders that fill the same buffer again and again.
    return {str(name): np.array(array) for name, array in batch.items()}


def _rows(batch: Arrays) -> int:
    return max((len(array) for array in batch.values() if array.ndim), default=0)
