"""How much of a model's behaviour is left: accuracy where there are labels, agreement with the original where not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shrinkc.api import Session
from shrinkc.errors import CalibrationError
from shrinkc.evidence.data import Data


@dataclass(frozen=True)
class OutputAgreement:
    """How one output of the compressed model compares with the original's.

    Attributes
    ----------
    output : str
    cosine : float
        Cosine similarity over all samples and elements.
    relative_error : float
        Norm of the difference over the norm of the original's output.
    top1 : float or None
        Share of samples with the same largest class, for outputs of shape (samples, classes).
    """

    output: str
    cosine: float
    relative_error: float
    top1: float | None


@dataclass(frozen=True)
class Quality:
    """Measured on data, or not measured at all.

    Attributes
    ----------
    data : str
        File the samples came from; empty if quality was not measured.
    samples : int
    accuracy_before, accuracy_after : float or None
        Top-1 accuracy in [0, 1]; None without labels.
    agreement : tuple of OutputAgreement
    """

    data: str = ""
    samples: int = 0
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    agreement: tuple[OutputAgreement, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether there was data."""
        return bool(self.samples)


def measure(before: Session, after: Session, data: Data, batch: int) -> Quality:
    """Run both models on all samples.

    Raises
    ------
    CalibrationError
        There are labels, and no output they could belong to.
    """
    reference = _collect(before, data, batch)
    actual = _collect(after, data, batch)
    agreement = tuple(_compare(name, reference[name], actual[name]) for name in reference)
    accuracy = [_accuracy(outputs, data.labels) if data.labels is not None else None for outputs in (reference, actual)]
    return Quality(data.source, data.n_samples, accuracy[0], accuracy[1], agreement)


def _collect(session: Session, data: Data, batch: int) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {}
    for outputs in _outputs(session, data, batch):
        for name, array in outputs.items():
            parts.setdefault(name, []).append(array)
    return {name: np.concatenate([np.atleast_1d(array) for array in arrays]) for name, arrays in parts.items()}


def _outputs(session: Session, data: Data, batch: int) -> Iterator[dict[str, np.ndarray]]:
    for feed in data.batches(batch):
        yield session.run(feed)


def _compare(name: str, reference: np.ndarray, actual: np.ndarray) -> OutputAgreement:
    a, b = reference.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms > 0 else float(np.array_equal(a, b))
    scale = float(np.linalg.norm(a))
    error = float(np.linalg.norm(a - b)) / scale if scale > 0 else float(np.linalg.norm(b))
    is_scores = reference.ndim == 2 and reference.shape[1] > 1 and np.issubdtype(reference.dtype, np.floating)
    top1 = float((reference.argmax(1) == actual.argmax(1)).mean()) if is_scores else None
    return OutputAgreement(name, cosine, error, top1)


def _accuracy(outputs: dict[str, np.ndarray], labels: np.ndarray) -> float:
    for array in outputs.values():
        if array.ndim == 2 and len(array) == len(labels) and array.shape[1] > int(labels.max()):
            return float((array.argmax(1) == labels).mean())
    shapes = {name: list(array.shape) for name, array in outputs.items()}
    raise CalibrationError(
        "the labels fit no output", where="labels", because=f"{len(labels)} labels up to {int(labels.max())}, outputs {shapes}"
    )
