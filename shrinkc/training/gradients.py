"""Gradients of the loss by stored tensor, for criteria that score channels by them.

With labels the loss is their cross-entropy.  Without, a model cannot differ from itself, so its own answers take their place:
the cross-entropy of its most likely class, or half the mean square of an output that holds no classes, by its variance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir
import torch

from shrinkc.api import FloatArray
from shrinkc.errors import CalibrationError
from shrinkc.evidence.data import Data, fixed_batch
from shrinkc.training.distill import AUTO, classes_of, label_loss, labelled, logits_of_probabilities, probabilities_of, variance
from shrinkc.training.executor import Executor
from shrinkc.training.lifting import lift_weights
from shrinkc.training.samples import Samples
from shrinkc.training.threads import limited

GRADIENT_BYTES = 1 << 30
"""Most bytes of gradients of single samples."""

MOST_SAMPLES = 256


def gradients(model: ir.Model, data: Data, *, threads: int = 0) -> dict[str, FloatArray]:
    """Gradients of every trainable tensor, one sample (or fixed batch) along the first axis.

    Parameters
    ----------
    model : ir.Model
    data : Data
        As many of its samples are used, evenly spaced, as fit into a gigabyte, 256 at most.
    threads : int
        0 for all processors.

    Returns
    -------
    dict of tensor name to ndarray of shape (samples, *tensor)

    Raises
    ------
    UnsupportedGraphError
        There are operators that cannot be differentiated through.
    CalibrationError
        A gradient is not finite.
    """
    copy = model.clone()
    lift_weights(copy)
    executor = Executor(copy).eval()
    parameters = executor.trainable()
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())
    unit = fixed_batch(model) or 1
    most = int(min(MOST_SAMPLES, max(1, GRADIENT_BYTES // max(1, size)))) * unit
    samples = Samples.of(data.thinned(most, unit))
    with limited(threads):
        rows = list(_rows(executor, _loss_of(copy, executor, samples, unit), parameters, samples, unit))
    found: dict[str, FloatArray] = {name: np.stack([row[name] for row in rows]) for name in parameters}
    wrong = [name for name, array in found.items() if not np.isfinite(array).all()]
    if wrong:
        raise CalibrationError("a gradient is not finite", where=wrong[0])
    return found


Loss = Callable[[Mapping[str, torch.Tensor], torch.Tensor | None], torch.Tensor]
"""Of outputs and labels."""


def _rows(
    executor: Executor, loss: Loss, parameters: Mapping[str, torch.nn.Parameter], samples: Samples, unit: int
) -> Iterator[dict[str, FloatArray]]:
    for part in samples.parts(unit):
        executor.zero_grad(set_to_none=True)
        loss(executor(part.inputs), part.labels).backward()  # type: ignore[no-untyped-call]
        yield {
            name: np.zeros(parameter.shape, np.float32)
            if parameter.grad is None
            else parameter.grad.detach().float().contiguous().numpy().copy()
            for name, parameter in parameters.items()
        }


def _loss_of(model: ir.Model, executor: Executor, samples: Samples, unit: int) -> Loss:
    """The labels' cross-entropy, or the distance of the model from its own answers."""
    looked_at = samples.parts(unit) if samples.labels is None else [next(samples.parts(unit))]
    with torch.no_grad():
        parts = [executor(part.inputs) for part in looked_at]
    classes, probabilities = classes_of(model, parts[0], AUTO), probabilities_of(model)
    if samples.labels is not None:
        name = labelled(parts[0], classes, samples.labels)
        return lambda outputs, labels: label_loss(_scores(outputs, name, probabilities), _given(labels))
    scales = {name: variance(torch.cat([part[name] for part in parts])) for name in _floating(parts[0])}
    return lambda outputs, labels: _own(outputs, {name: _scores(outputs, name, probabilities) for name in classes}, scales)


def _scores(outputs: Mapping[str, torch.Tensor], name: str, probabilities: Collection[str]) -> torch.Tensor:
    return logits_of_probabilities(outputs[name]) if name in probabilities else outputs[name]


def _given(labels: torch.Tensor | None) -> torch.Tensor:
    assert labels is not None
    return labels


def _floating(outputs: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name, value in outputs.items() if value.is_floating_point()]


def _own(outputs: Mapping[str, torch.Tensor], scores: Mapping[str, torch.Tensor], scales: Mapping[str, float]) -> torch.Tensor:
    parts = [
        label_loss(scores[name], scores[name].detach().argmax(1))
        if name in scores
        else outputs[name].float().square().mean() / (2 * scale)
        for name, scale in scales.items()
    ]
    return torch.stack(parts).sum()
