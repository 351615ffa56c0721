"""How good a model is on samples it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from shrinkc.training.distill import is_logits
from shrinkc.training.samples import Batch, Samples, Tensors
from shrinkc.training.teacher import Answers

Loss = Callable[[Mapping[str, torch.Tensor], Batch], torch.Tensor]
"""Loss of a batch, a mean over its samples, from the model's values."""

Run = Callable[[Tensors], Mapping[str, torch.Tensor]]
"""The model, in evaluation mode."""


@dataclass(frozen=True)
class Metrics:
    """What a model does on held-out samples.

    Attributes
    ----------
    loss : float
    agreement : float or None
        Share of samples with the teacher's largest class, None where no output holds classes or there is no teacher.
    accuracy : float or None
        Share of samples with the labelled class, None without labels.
    samples : int
    """

    loss: float
    agreement: float | None
    accuracy: float | None
    samples: int

    @property
    def quality(self) -> float:
        """What must not get worse: accuracy, else agreement, else the loss with its sign turned."""
        found = self.accuracy if self.accuracy is not None else self.agreement
        return -self.loss if found is None else found

    def is_better_than(self, other: Metrics, floor: Metrics) -> bool:
        """Whether the loss is lower, and neither accuracy nor agreement below those of ``floor``."""
        return self.loss < other.loss and self.quality >= floor.quality


def evaluate(run: Run, loss: Loss, samples: Samples, answers: Answers, batch: int) -> Metrics:
    """Mean loss, agreement and accuracy of a model on all samples.

    Parameters
    ----------
    run : callable
    loss : callable
    samples : Samples
    answers : Answers
        The teacher's, empty without one.
    batch : int
        Samples at a time.
    """
    total, hits, right, classified, labelled = 0.0, 0, 0, 0, 0
    for own in batches(samples, answers, batch):
        with torch.no_grad():
            outputs = run(own.inputs)
            total += float(loss(outputs, own)) * own.size
        hits, classified = _counted(outputs, own.targets, hits, classified)
        right, labelled = _labelled(outputs, own.labels, right, labelled)
    agreement = hits / classified if classified else None
    return Metrics(total / len(samples), agreement, right / labelled if labelled else None, len(samples))


def batches(samples: Samples, answers: Answers, size: int) -> Iterator[Batch]:
    """All samples in batches, with the teacher's answers; the last may be smaller."""
    for start in range(0, len(samples), size):
        index = torch.arange(start, min(start + size, len(samples)))
        part = samples.take(index)
        yield Batch(part.inputs, index, part.labels, answers.at(index))


def _counted(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], hits: int, seen: int) -> tuple[int, int]:
    for name, value in outputs.items():
        if name in targets and is_logits(value):
            hits += int((value.argmax(1) == targets[name].to(value.device).argmax(1)).sum())
            seen += len(value)
    return hits, seen


def _labelled(outputs: Mapping[str, torch.Tensor], labels: torch.Tensor | None, right: int, seen: int) -> tuple[int, int]:
    if labels is None:
        return right, seen
    value = next((value for value in outputs.values() if is_logits(value)), None)
    if value is None:
        return right, seen
    return right + int((value.argmax(1) == labels.to(value.device)).sum()), seen + len(labels)
