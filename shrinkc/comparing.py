"""How far the outputs of one engine or model are from those of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]

TIE = 1e-6
"""Two classes are equally good if their scores are closer than this share of the largest score."""


@dataclass(frozen=True)
class Difference:
    """One output, over all inputs.

    Attributes
    ----------
    output : str
    max_abs : float
        Largest absolute difference; infinite where one side is not finite or the shapes differ.
    relative : float
        That, over the largest absolute value of the reference.
    cosine : float
        Of the two as vectors.
    sqnr_db : float or None
        Energy of the reference over that of the difference, in dB; None where there is none.
    argmax_agreement : float or None
        Share of the positions where the same class wins; None where there are no classes.
    note : str
        What made a comparison impossible.
    """

    output: str
    max_abs: float
    relative: float
    cosine: float
    sqnr_db: float | None
    argmax_agreement: float | None
    note: str = ""


def compare(expected: Sequence[Outputs], found: Sequence[Outputs]) -> tuple[Difference, ...]:
    """Differences of every output, over several runs.

    Parameters
    ----------
    expected, found : sequence of mapping of output name to ndarray
        One entry a run, in the same order.
    """
    return tuple(_difference(name, [run[name] for run in expected], [run.get(name) for run in found]) for name in expected[0])


def worst(differences: Sequence[Difference]) -> Difference:
    """The output that is furthest off."""
    return max(differences, key=lambda difference: difference.relative)


def _difference(name: str, expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any] | None]) -> Difference:
    for wanted, given in zip(expected, found, strict=True):
        if given is None:
            return _impossible(name, "the output is missing")
        if given.shape != wanted.shape:
            return _impossible(name, f"shape {list(given.shape)} in place of {list(wanted.shape)}")
    arrays = [array for array in found if array is not None]
    ref, got = (np.concatenate([run.astype(np.float64).ravel() for run in runs]) for runs in (expected, arrays))
    if not np.array_equal(np.isfinite(ref), np.isfinite(got)):
        return _impossible(name, "NaN or infinity in place of numbers")
    is_number = np.isfinite(ref)
    return _of_vectors(name, ref[is_number], got[is_number], _agreement(expected, arrays))


def _impossible(name: str, note: str) -> Difference:
    return Difference(name, float("inf"), float("inf"), 0.0, float("-inf"), None, note)


def _of_vectors(name: str, ref: NDArray[Any], got: NDArray[Any], agreement: float | None) -> Difference:
    error = got - ref
    largest = float(np.abs(error).max(initial=0))
    scale = float(np.abs(ref).max(initial=0))
    energy, noise = float(ref @ ref), float(error @ error)
    norms = float(np.sqrt(energy) * np.sqrt(got @ got))
    return Difference(
        name,
        largest,
        largest / scale if scale else (0.0 if not largest else float("inf")),
        float(ref @ got) / norms if norms else float(largest == 0),
        10 * float(np.log10(energy / noise)) if noise and energy else None,
        agreement,
    )


def _agreement(expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> float | None:
    """Share of equal winners along the axis of classes: the last of sequences (N T C), the second of anything else."""
    first = expected[0]
    axis = 2 if first.ndim == 3 else 1
    if first.ndim < 2 or first.shape[axis] < 2 or not np.issubdtype(first.dtype, np.floating):
        return None
    agreed = [_is_same_winner(ref, got, axis).ravel() for ref, got in zip(expected, found, strict=True)]
    return float(np.concatenate(agreed).mean())


def _is_same_winner(ref: NDArray[Any], got: NDArray[Any], axis: int) -> NDArray[np.bool_]:
    """Whether the winner of ``got`` wins in ``ref``, too, or loses there by no more than rounding."""
    chosen = np.take_along_axis(ref, np.expand_dims(got.argmax(axis), axis), axis)
    best = ref.max(axis, keepdims=True)
    return np.asarray(chosen >= best - TIE * np.abs(ref).max())
