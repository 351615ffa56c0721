"""Gradients of the loss by stored tensor, for criteria that score channels by them.

With labels the loss is their cross-entropy.  Without, a model cannot differ from itself, so its own answers take their place:
the cross-entropy of its most likely class, or half the mean square of an output that holds no classes, by its variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
import torch

from shrinkc.api import FloatArray
from shrinkc.errors import CalibrationError
from shrinkc.evidence.data import Data, fixed_batch
from shrinkc.training.distill import is_logits, label_loss, variance
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
        rows = list(_rows(executor, parameters, samples, unit))
    found: dict[str, FloatArray] = {name: np.stack([row[name] for row in rows]) for name in parameters}
    wrong = [name for name, array in found.items() if not np.isfinite(array).all()]
    if wrong:
        raise CalibrationError("a gradient is not finite", where=wrong[0])
    return found


def _rows(
    executor: Executor, parameters: Mapping[str, torch.nn.Parameter], samples: Samples, unit: int
) -> Iterator[dict[str, FloatArray]]:
    scales: dict[str, float] = {}
    if samples.labels is None:
        with torch.no_grad():
            parts = [executor(part.inputs) for part in samples.parts(unit)]
        scales = {name: variance(torch.cat([part[name] for part in parts])) for name in _floating(parts[0])}
    for part in samples.parts(unit):
        executor.zero_grad(set_to_none=True)
        _loss(executor(part.inputs), part.labels, scales).backward()  # type: ignore[no-untyped-call]
        yield {
            name: np.zeros(parameter.shape, np.float32)
            if parameter.grad is None
            else parameter.grad.detach().float().contiguous().numpy().copy()
            for name, parameter in parameters.items()
        }


def _floating(outputs: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name, value in outputs.items() if value.is_floating_point()]


def _loss(outputs: Mapping[str, torch.Tensor], labels: torch.Tensor | None, scales: Mapping[str, float]) -> torch.Tensor:
    if labels is not None:
        return label_loss(outputs, labels)
    parts = [
        label_loss({name: value}, value.detach().argmax(1))
        if is_logits(value)
        else value.float().square().mean() / (2 * scales[name])
        for name, value in outputs.items()
        if value.is_floating_point()
    ]
    return torch.stack(parts).sum()
