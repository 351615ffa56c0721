"""Distillation losses: what keeps a student close to its teacher.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015 (arXiv 1503.02531), section 2.  Differs: outputs that
are no logits are compared by their distance in units of their own spread, and so may be values inside the network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir
import torch
from torch.nn import functional as F

from shrinkc.errors import RecipeError

SMALLEST = 1e-12


class Distance(Protocol):
    """How far an output of the student is from the teacher's; a mean over the samples."""

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Scalar tensor."""


@dataclass(frozen=True)
class KL:
    """Divergence of softened classes times the square of the temperature, whose gradient is T (softmax(s/T) - softmax(t/T)).

    Attributes
    ----------
    temperature : float
    has_probabilities : bool
        The outputs are probabilities already; their logarithms serve as logits.
    """

    temperature: float
    has_probabilities: bool = False

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """See :class:`Distance`."""
        softened = [F.log_softmax(self._logits(value) / self.temperature, 1) for value in (student, teacher)]
        return self.temperature**2 * F.kl_div(softened[0], softened[1], reduction="batchmean", log_target=True)

    def _logits(self, value: torch.Tensor) -> torch.Tensor:
        return logits_of_probabilities(value) if self.has_probabilities else value.float()


def logits_of_probabilities(value: torch.Tensor) -> torch.Tensor:
    """Scores of which a softmax makes the probabilities again, float32: half precision underflows."""
    return value.float().clamp_min(SMALLEST).log()


@dataclass(frozen=True)
class ScaledSquares:
    """Mean of squared differences over ``scale``, the teacher's variance."""

    scale: float

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """See :class:`Distance`."""
        return F.mse_loss(student.float(), teacher.float()) / self.scale


@dataclass(frozen=True)
class ScaledAbsolutes:
    """Mean of absolute differences over ``scale``, the teacher's mean absolute deviation."""

    scale: float

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """See :class:`Distance`."""
        return F.l1_loss(student.float(), teacher.float()) / self.scale


def variance(value: torch.Tensor) -> float:
    """Of everything in it, over the elements of a sample: each has a mean of its own."""
    centred = value.float() - value.float().mean(0, keepdim=True)
    return max(float(centred.square().mean()), SMALLEST)


def mean_deviation(value: torch.Tensor) -> float:
    """Mean absolute deviation, each element of a sample from its own mean."""
    return max(float((value.float() - value.float().mean(0, keepdim=True)).abs().mean()), SMALLEST)


def is_logits(value: torch.Tensor) -> bool:
    """Whether an output may hold scores of classes: (samples, classes), floating."""
    return value.ndim == 2 and value.shape[1] > 1 and value.is_floating_point()


NO_CLASSES = ("Sigmoid", "HardSigmoid", "Tanh", "LpNormalization")
"""What makes outputs that are no scores of classes of which one is right: of many that may be, or directions."""

PASSING = ("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Clip", "Max", "Expand")
"""What leaves a value as it was, but for its shape, type or bounds."""

AUTO, NONE = "auto", "none"


def classes_of(model: ir.Model, outputs: Mapping[str, torch.Tensor], chosen: str) -> tuple[str, ...]:
    """Outputs that hold scores of classes, of which one is right for each sample.

    Parameters
    ----------
    model : ir.Model
    outputs : mapping of output name to tensor
        Of a few samples.
    chosen : str
        ``auto`` goes by shape, and by what the outputs are made by; else names with commas between them, or ``none``.

    Raises
    ------
    RecipeError
        An output that was named is none, or cannot hold classes.
    """
    able = [name for name, value in outputs.items() if is_logits(value)]
    if chosen == AUTO:
        others = {value.name for value in model.graph.outputs if _is_no_score(value)}
        return tuple(name for name in able if name not in others)
    return named_among(able, chosen)


def named_among(able: Sequence[str], chosen: str) -> tuple[str, ...]:
    """Outputs that somebody named, none for ``none`` and, as nothing is named, for ``auto``.

    Raises
    ------
    RecipeError
        One is not ``able`` to hold classes.
    """
    if chosen in (AUTO, NONE):
        return ()
    named = tuple(name.strip() for name in chosen.split(","))
    if wrong := [name for name in named if name not in able]:
        raise RecipeError(
            "no output that could hold classes", where=f"classes = {', '.join(wrong)}", hint=f"known: {', '.join(able) or NONE}"
        )
    return named


def probabilities_of(model: ir.Model) -> frozenset[str]:
    """Outputs that are probabilities already."""
    made = ((value.name or "", made_by(value)) for value in model.graph.outputs)
    return frozenset(name for name, node in made if node is not None and node.op_type == "Softmax")


def _is_no_score(value: ir.Value) -> bool:
    """Whether what makes an output says that it holds no scores of classes: by a division by its length, too."""
    node = made_by(value)
    if node is None:
        return False
    divisor = made_by(node.inputs[1]) if node.op_type == "Div" else None
    return node.op_type in NO_CLASSES or (divisor is not None and divisor.op_type == "ReduceL2")


def made_by(value: ir.Value | None) -> ir.Node | None:
    """The node that a value comes from, behind those that leave it as it was."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in PASSING:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return node


@dataclass(frozen=True)
class Feature:
    """A value inside that teacher and student both have, and which of the teacher's channels the student kept.

    Attributes
    ----------
    name : str
    axis : int
    kept : tuple of int or None
        None where all are.
    """

    name: str
    axis: int = 1
    kept: tuple[int, ...] | None = None

    def of_teacher(self, value: torch.Tensor) -> torch.Tensor:
        """The channels the student still has."""
        return value if self.kept is None else value.index_select(self.axis, torch.tensor(self.kept, device=value.device))


@dataclass(frozen=True, eq=False)
class Distillation:
    """Sum of the distances of all outputs, and of the values inside times their weight.

    Attributes
    ----------
    outputs : mapping of output name to Distance
    features : mapping of value name to Distance
        Over the channels that are left.
    feature_weight : float
        Of the mean over the features.
    """

    outputs: Mapping[str, Distance]
    features: Mapping[str, Distance]
    feature_weight: float = 0.0

    def __call__(self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Scalar tensor."""
        total = torch.stack([distance(student[name], teacher[name]) for name, distance in self.outputs.items()]).sum()
        if not self.features or not self.feature_weight:
            return total
        inside = [distance(student[name], teacher[name]) for name, distance in self.features.items()]
        return total + self.feature_weight * torch.stack(inside).mean()


def labelled(outputs: Mapping[str, torch.Tensor], classes: Sequence[str], labels: torch.Tensor) -> str:
    """Name of the first output of those with classes that has one for every label.

    Raises
    ------
    RecipeError
        There is none.
    """
    least, most = int(labels.min()), int(labels.max())
    for name in classes:
        if least >= 0 and most < outputs[name].shape[1]:
            return name
    shapes = ", ".join(f"{name} of {'x'.join(map(str, value.shape))}" for name, value in outputs.items())
    able = [name for name, value in outputs.items() if is_logits(value) and name not in classes]
    raise RecipeError(
        "the labels fit no output",
        where=f"labels from {least} to {most}",
        because=f"outputs: {shapes}; taken to hold classes: {', '.join(classes) or NONE}",
        hint=f'classes = "{able[0]}", if it does' if able else "",
    )


def label_loss(scores: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of scores of classes; ``smoothing`` is the mass spread over the other classes."""
    classes = scores.shape[1]
    return F.cross_entropy(scores.float(), labels, label_smoothing=smoothing * classes / max(1, classes - 1))


def distances_for(
    outputs: Mapping[str, torch.Tensor],
    classes: Sequence[str],
    probabilities: Collection[str],
    logit_loss: str,
    other_loss: str,
    temperature: float,
) -> dict[str, Distance]:
    """A distance for every floating output, given what the teacher makes of a few samples, and which of them hold classes."""
    found: dict[str, Distance] = {}
    for name, value in outputs.items():
        if not value.is_floating_point():
            continue
        if name in classes and logit_loss == "kl":
            found[name] = KL(temperature, name in probabilities)
        elif other_loss == "l1" and name not in classes:
            found[name] = ScaledAbsolutes(mean_deviation(value))
        else:
            found[name] = ScaledSquares(variance(value))
    return found
