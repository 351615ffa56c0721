"""What is to be trained, on what, by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from shrinkc.api import RuntimeAdapter
from shrinkc.evidence.data import Data
from shrinkc.training.augment import is_image
from shrinkc.training.distill import Feature


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is to be trained, on what, by whom.

    Attributes
    ----------
    student : ir.Model
    teacher : ir.Model or None
    data : Data
    features : sequence of Feature
        Values inside that both have.
    runtime : RuntimeAdapter
        Of the teacher, on a processor.
    given : ir.Model or None
        What the student was made of, where a method rewrote it.
    """

    student: ir.Model
    teacher: ir.Model | None
    data: Data
    features: Sequence[Feature]
    runtime: RuntimeAdapter
    given: ir.Model | None = None


def has_images(data: Data) -> bool:
    """Whether an input looks like images."""
    return any(_may_be_image(array) for array in data.inputs.values())


def _may_be_image(array: np.ndarray) -> bool:
    return is_image(torch.empty(array.shape, device="meta")) if np.issubdtype(array.dtype, np.floating) else False
