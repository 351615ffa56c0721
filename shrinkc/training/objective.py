"""What is minimised: the distance to the teacher, the labels' cross-entropy, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from shrinkc.training.distill import Distillation, label_loss, logits_of_probabilities
from shrinkc.training.samples import Batch


@dataclass(frozen=True, eq=False)
class Objective:
    """Loss of a batch.

    Attributes
    ----------
    distillation : Distillation or None
    label_weight : float
        Share of the labels' loss where there are both.
    label_smoothing : float
    classes : tuple of str
        Outputs that hold scores of classes.
    labelled : str
        The one of them that the labels are of, empty without labels.
    has_probabilities : bool
        That one holds probabilities, not scores.
    """

    distillation: Distillation | None
    label_weight: float = 0.0
    label_smoothing: float = 0.0
    classes: tuple[str, ...] = ()
    labelled: str = ""
    has_probabilities: bool = False

    @property
    def inside(self) -> tuple[str, ...]:
        """Values inside the model that are compared."""
        return () if self.distillation is None else tuple(self.distillation.features)

    def judging(self) -> Objective:
        """What judges a model: by what it says alone, without smoothing."""
        distillation = None if self.distillation is None else replace(self.distillation, features={})
        return replace(self, distillation=distillation, label_smoothing=0.0)

    def __call__(self, values: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Scalar tensor, a mean over the samples of the batch."""
        if self.distillation is None:
            return self._of_labels(values, batch)
        distance = self.distillation(values, batch.targets)
        if batch.labels is None or not self.label_weight:
            return distance
        return torch.lerp(distance, self._of_labels(values, batch), self.label_weight)

    def _of_labels(self, values: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        if batch.labels is None:
            raise ValueError("neither a teacher nor labels")
        told = values[self.labelled]
        scores = logits_of_probabilities(told) if self.has_probabilities else told
        return label_loss(scores, batch.labels, self.label_smoothing)
