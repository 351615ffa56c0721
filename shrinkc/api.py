"""What a plug-in implements: criteria, allocators and runtimes.  Built-ins come in through the same entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc.analysis.constants import UNTOUCHED
from shrinkc.analysis.flow import Role
from shrinkc.analysis.forming import Group, Member
from shrinkc.analysis.groups import Analysis
from shrinkc.engines import (
    THIS_MACHINE,
    Artifact,
    ArtifactFile,
    Convert,
    ConvertConfig,
    Converting,
    Effective,
    Engine,
    EngineSession,
    LayerTime,
    Measurement,
    NodeVerdict,
    Probe,
    Reloading,
    RunConfig,
    RuntimeAdapter,
    Session,
    SupportReport,
)
from shrinkc.signature import Port, Signature

API_VERSION = 1

FloatArray = NDArray[np.floating[Any]]

SMALLEST_RATIO = 1e-12
"""What a probe counts for that shows nothing at all."""
Weights = Callable[[ir.Value], FloatArray]
"""Reads a stored tensor."""


@dataclass(frozen=True)
class Moments:
    """Moments of the inputs of a layer, per group of a grouped convolution.

    Attributes
    ----------
    rows : int
        Samples times positions.
    mean : ndarray of shape (groups, columns), float64
    gram : ndarray of shape (groups, columns, columns)
        Uncentred second moment, a mean over the rows.
    """

    rows: int
    mean: FloatArray
    gram: FloatArray

    def covariance(self) -> FloatArray:
        """Centred second moment, shape of ``gram``."""
        covariance = -self.mean[:, :, None] * self.mean[:, None, :]
        covariance += self.gram
        return covariance


@dataclass(frozen=True)
class CrossMoments:
    """Moments of the inputs and the targets of a layer together.

    Attributes
    ----------
    inputs : Moments
    mean : ndarray of shape (groups, outputs)
        Of the targets.
    square : ndarray of shape (groups, outputs)
        Second moment of the targets.
    cross : ndarray of shape (groups, outputs, columns)
        Of targets with inputs, uncentred.
    """

    inputs: Moments
    mean: FloatArray
    square: FloatArray
    cross: FloatArray


@dataclass(frozen=True)
class Windows:
    """How a convolution slides over its input; one entry a spatial axis, two paddings (before, after)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Activity:
    """How much the channels that a layer reads do.

    Attributes
    ----------
    mean_abs : ndarray of shape (channels, ...), float64
        Mean over the samples of the absolute value at every position (of all positions, where sizes vary).
    zero_share : ndarray of shape (channels,), float64
        Share of samples and positions where the value is zero or less.
    """

    mean_abs: FloatArray
    zero_share: FloatArray


@dataclass(frozen=True)
class Share:
    """Part of a layer's output, its bias aside, that some of its columns give by themselves.

    Attributes
    ----------
    energy : float
        Of its second moment; 1 where they are all of its columns.
    variance : float
        Of what varies.
    """

    energy: float = 1.0
    variance: float = 1.0


@dataclass(frozen=True, eq=False)
class Consumer:
    """One layer that reads channels of a group, as a linear map, and the moments of what it reads.

    A layer too wide for the second moments of all its columns is several consumers, one a block of whole channels: each gives
    its ``share`` of the layer's output, as if blocks had nothing to do with each other.

    Attributes
    ----------
    name : str
        Of the layer's output; groups of a grouped convolution share it.
    weight : ndarray of shape (outputs, columns), float64 or, if it is stored so, float32
    mean : ndarray of shape (columns,), float64
    gram : ndarray of shape (columns, columns)
        Uncentred second moment of the columns, a mean over ``rows`` rows.
    rows : int
    position : ndarray of shape (columns,), int64
        Position in the group of the channel behind every column; -1 where it is another group's, or stays anyway.
    taps : int
        Columns per channel (the size of a kernel); those of a channel lie side by side.
    activity : Activity
        Of the channels it reads, ``columns // taps`` of them.
    windows : Windows or None
        How it slides over its input, None for a matrix product.
    number : int
        Which group of a grouped convolution it is.
    columns : ndarray of shape (columns,), int64, or None
        Which columns of that group these are; None where they are all.
    share : Share
        Of the layer's output; what these columns give counts as much, where it is set beside what other layers give.
    """

    name: str
    weight: FloatArray
    mean: FloatArray
    gram: FloatArray
    rows: int
    position: NDArray[np.int64]
    taps: int
    activity: Activity
    windows: Windows | None = None
    number: int = 0
    columns: NDArray[np.int64] | None = None
    share: Share = Share()


@dataclass(frozen=True)
class Sensitivity:
    """Error of the model's outputs per error at a group's consumers, as probes found it.

    Attributes
    ----------
    probes : tuple of (int, float)
        So many positions were removed, and such was the ratio; ascending, each number once.
    """

    probes: tuple[tuple[int, float], ...]

    def with_probe(self, removed: int, ratio: float) -> Sensitivity:
        """The same with one more probe; it takes the place of an older one of as many positions."""
        return Sensitivity(tuple(sorted({**dict(self.probes), removed: ratio}.items())))

    def of(self, errors: FloatArray) -> FloatArray:
        """Errors of the outputs, from those at the consumers.

        Between probes the ratio follows the number of positions log-linearly, beyond them it stays.

        Parameters
        ----------
        errors : ndarray of shape (width + 1,)
            By number of positions removed, never decreasing.

        Returns
        -------
        ndarray of shape (width + 1,)
            Never decreasing.
        """
        removed, ratios = zip(*self.probes, strict=True)
        logs = np.log(np.maximum(ratios, SMALLEST_RATIO))
        shown: FloatArray = errors * np.exp(np.interp(np.arange(len(errors)), removed, logs))
        return np.maximum.accumulate(shown)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What data told about the model.

    Attributes
    ----------
    consumers : mapping of group name to tuple of Consumer
        Layers that read the group's channels; those that could not be looked at (recurrent ones, say) are missing.
    n_samples : int
    source : str
        Where the data came from.
    is_synthetic : bool
        It was made up from the model.
    sensitivity : mapping of group name to Sensitivity
        How much an error at the group's consumers shows in the outputs; groups that are not named were not probed.
    gradients : mapping of tensor name to ndarray of shape (samples, *tensor)
        Gradients of the loss by stored tensor, laid out as it is stored, one sample along the first axis in the same order for
        every tensor (one mini-batch instead, if its mean loss is what was derived); empty if none were given.
    notes : tuple of str
        Sentences for the report: what was looked at in part only.
    """

    consumers: Mapping[str, tuple[Consumer, ...]] = field(default_factory=dict)
    n_samples: int = 0
    source: str = ""
    is_synthetic: bool = False
    sensitivity: Mapping[str, Sensitivity] = field(default_factory=dict)
    gradients: Mapping[str, FloatArray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class Criterion(Protocol):
    """Scores the channels of a group; the lowest go first.  See also :class:`Checking` and :class:`Seeded`.

    Attributes
    ----------
    name : str
    needs_evidence : bool
        Whether :meth:`scores` needs moments of data.
    is_comparable : bool
        Whether scores of different groups are on one scale as they are; else a ranking over all groups divides them by the
        mean of their group first.
    """

    name: str
    needs_evidence: bool
    is_comparable: bool

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """One finite, non-negative score per position of the group, shape ``(group.width,)``."""


@runtime_checkable
class ReadingGradients(Protocol):
    """A criterion, moreover, that reads :attr:`Evidence.gradients`; they are computed from data where nobody gave them.

    Attributes
    ----------
    needs_gradients : bool
    """

    needs_gradients: bool


@runtime_checkable
class Checking(Protocol):
    """A criterion, moreover, that has to see all groups before it scores the first."""

    def check(self, groups: Sequence[Group]) -> None:
        """Refuse a model about which the criterion has nothing to say.

        Raises
        ------
        RecipeError
            It would score no group.
        """


@runtime_checkable
class Seeded(Protocol):
    """A criterion, moreover, that draws random numbers.

    Attributes
    ----------
    seed : int
        The recipe's; set before the first group is scored.
    """

    seed: int


@dataclass(frozen=True, eq=False)
class Problem:
    """What an allocator decides about; equal only to itself, so allocators may remember what they worked out for it.

    Attributes
    ----------
    groups : sequence of Group
    scores : mapping of group name to ndarray
        As the criterion gave them.
    is_comparable : bool
        See :class:`Criterion`.
    errors : callable of group to ndarray of shape (width + 1,)
        Predicted error of keeping so many positions (the best by score), non-increasing; 0 for all.
    price : callable of {group name: width} to float
        What is left of the budgeted quantity as a share of the original's.
    step : callable of group to int
        Widths the target likes are multiples of this.
    """

    groups: Sequence[Group]
    scores: Mapping[str, FloatArray]
    is_comparable: bool
    errors: Callable[[Group], FloatArray]
    price: Callable[[Mapping[str, float]], float]
    step: Callable[[Group], int]


@runtime_checkable
class Allocator(Protocol):
    """Decides how much of every group stays.

    What the entry point names is called without arguments, or, for a setting ``name:parameter``, with the parameter's text.

    Attributes
    ----------
    name : str
    needs_evidence : bool
        Whether it asks for errors.
    """

    name: str
    needs_evidence: bool

    def widths(self, problem: Problem, pressure: float) -> dict[str, float]:
        """Wanted number of kept positions by group name, not yet rounded to what the target likes.

        Parameters
        ----------
        problem : Problem
            The same object for every pressure of one run.
        pressure : float in [0, 1]
            0 keeps everything, 1 removes as much as the allocator ever would.  Widths must not grow with it, or, where they
            are chosen jointly, their price must stay below a limit that falls with it.
        """


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of the cut network, and the moments of what it reads there with what the original gave.

    Attributes
    ----------
    name : str
        Of its output.
    weight : ndarray of shape (groups, outputs, columns), float64
    bias : ndarray of shape (groups, outputs), float64
        What it adds now.
    moments : CrossMoments
        Of its inputs and of the targets: the original's outputs of the same layer, those it still has.
    taps : int
        Columns per input channel.
    can_shift : bool
        Whether there is a stored tensor that takes up another bias.
    """

    name: str
    weight: FloatArray
    bias: FloatArray
    moments: CrossMoments
    taps: int
    can_shift: bool


@dataclass(frozen=True, eq=False)
class Fit:
    """Another weight and bias for a :class:`Layer`, of the same shapes."""

    weight: FloatArray
    bias: FloatArray


@runtime_checkable
class Compensation(Protocol):
    """Repairs what is left of a network after channels were removed.

    Attributes
    ----------
    name : str
    needs_data : bool
    """

    name: str
    needs_data: bool

    def apply(self, repair: Repair) -> Repaired:
        """Change weights of ``repair.pruned`` in place, never their shapes."""


@dataclass(frozen=True, eq=False)
class Repair:
    """A cut model, where it comes from, and inputs to repair it with.

    Attributes
    ----------
    analysis : Analysis
        Of the original.
    is_kept : ndarray of bool
        See :meth:`shrinkc.analysis.groups.Analysis.keep_mask`.
    pruned : ir.Model
    shapes : mapping of input name to shape
    batches : sequence of mapping of input name to ndarray
        Empty without data.
    runtime : RuntimeAdapter
    seed : int
    """

    analysis: Analysis
    is_kept: NDArray[np.bool_]
    pruned: ir.Model
    shapes: Mapping[str, tuple[int, ...]]
    batches: Sequence[Mapping[str, NDArray[Any]]]
    runtime: RuntimeAdapter
    seed: int = 0


@dataclass(frozen=True)
class RepairedLayer:
    """Error of one layer's output, as a share of the original's energy, on the inputs used for the repair."""

    name: str
    error_before: float
    error_after: float


@dataclass(frozen=True)
class Repaired:
    """What a compensation changed: names of tensors, and errors of layers where it knows them.

    ``notes`` are sentences for the report: what was left alone, and why.
    """

    tensors: tuple[str, ...] = ()
    layers: tuple[RepairedLayer, ...] = ()
    notes: tuple[str, ...] = ()


@runtime_checkable
class Prescription(Allocator, Protocol):
    """An allocator that names every width itself, whatever the pressure: budgets, ratios and multiples do not apply to it.

    Attributes
    ----------
    is_prescription : bool
        True.
    """

    is_prescription: bool


__all__ = [
    "API_VERSION",
    "THIS_MACHINE",
    "UNTOUCHED",
    "Activity",
    "Allocator",
    "Artifact",
    "ArtifactFile",
    "Checking",
    "Compensation",
    "Consumer",
    "Convert",
    "ConvertConfig",
    "Converting",
    "Criterion",
    "CrossMoments",
    "Effective",
    "Engine",
    "EngineSession",
    "Evidence",
    "Fit",
    "FloatArray",
    "Group",
    "Layer",
    "LayerTime",
    "Measurement",
    "Member",
    "Moments",
    "NodeVerdict",
    "Port",
    "Probe",
    "ReadingGradients",
    "Reloading",
    "Problem",
    "Repair",
    "Repaired",
    "RepairedLayer",
    "Role",
    "RunConfig",
    "RuntimeAdapter",
    "Seeded",
    "Sensitivity",
    "Session",
    "Share",
    "Signature",
    "SupportReport",
    "Weights",
    "Windows",
]
