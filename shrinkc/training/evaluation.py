"""How good a model is on samples it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from shrinkc.training.objective import Objective
from shrinkc.training.samples import Batch, Samples, Tensors
from shrinkc.training.teacher import Answers

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

    def numbers(self) -> list[float]:
        """As plain numbers, NaN for what is not there."""
        return [math.nan if value is None else value for value in (self.loss, self.agreement, self.accuracy, self.samples)]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Metrics:
        """What :meth:`numbers` told."""
        loss, *shares, samples = numbers
        agreement, accuracy = (None if math.isnan(share) else share for share in shares)
        return cls(loss, agreement, accuracy, int(samples))

    @property
    def quality(self) -> float:
        """What must not get worse: accuracy, else agreement, else the loss with its sign turned."""
        found = self.accuracy if self.accuracy is not None else self.agreement
        return -self.loss if found is None else found

    def is_better_than(self, other: Metrics, floor: Metrics) -> bool:
        """Whether the loss is lower, and neither accuracy nor agreement below those of ``floor``."""
        return self.loss < other.loss and self.quality >= floor.quality


def evaluate(run: Run, objective: Objective, samples: Samples, answers: Answers, batch: int) -> Metrics:
    """Mean loss, agreement and accuracy of a model on all samples.

    Parameters
    ----------
    run : callable
    objective : Objective
        Its loss, and which outputs hold classes.
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
            total += float(objective(outputs, own)) * own.size
        hits, classified = _counted({name: outputs[name] for name in objective.classes}, own.targets, hits, classified)
        if objective.labelled and own.labels is not None:
            scores = outputs[objective.labelled]
            right, labelled = right + int((scores.argmax(1) == own.labels.to(scores.device)).sum()), labelled + own.size
    agreement = hits / classified if classified else None
    return Metrics(total / len(samples), agreement, right / labelled if labelled else None, len(samples))


def batches(samples: Samples, answers: Answers, size: int) -> Iterator[Batch]:
    """All samples in batches, with the teacher's answers; the last may be smaller."""
    for start in range(0, len(samples), size):
        index = torch.arange(start, min(start + size, len(samples)))
        part = samples.take(index)
        yield Batch(part.inputs, index, part.labels, answers.at(index))


def _counted(scores: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], hits: int, seen: int) -> tuple[int, int]:
    for name, value in scores.items():
        if name in targets:
            hits += int((value.argmax(1) == targets[name].to(value.device).argmax(1)).sum())
            seen += len(value)
    return hits, seen
