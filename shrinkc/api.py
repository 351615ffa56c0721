"""What a plug-in implements: criteria, allocators and runtimes.  Built-ins come in through the same entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc.analysis.constants import UNTOUCHED
from shrinkc.analysis.flow import Role
from shrinkc.analysis.forming import Group, Member

API_VERSION = 1

FloatArray = NDArray[np.floating[Any]]
Weights = Callable[[ir.Value], FloatArray]
"""Reads a stored tensor."""


@dataclass(frozen=True)
class Evidence:
    """What data told about the model; criteria that need none ignore it.

    Attributes
    ----------
    inputs : mapping of input name to ndarray
        Samples along the first axis.
    """

    inputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@runtime_checkable
class Criterion(Protocol):
    """Scores the channels of a group; the lowest go first."""

    name: str
    needs_evidence: bool

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """One finite, non-negative score per position of the group, shape ``(group.width,)``.

        Scores of different groups are compared by the ``global`` allocator, so they should have mean 1 in each group.
        """


@runtime_checkable
class Allocator(Protocol):
    """Decides how much of every group stays."""

    name: str

    def widths(self, groups: Sequence[Group], scores: Mapping[str, FloatArray], pressure: float) -> dict[str, float]:
        """Wanted number of kept positions by group name, not yet rounded to what the target likes.

        Parameters
        ----------
        groups : sequence of Group
        scores : mapping of group name to ndarray
        pressure : float in [0, 1]
            0 keeps everything, 1 removes as much as the allocator ever would.  Widths must not grow with it.
        """


@dataclass(frozen=True)
class Probe:
    """Whether a runtime can be used here."""

    is_available: bool
    version: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Effective:
    """What a session really runs on, as opposed to what was asked for."""

    runtime: str
    version: str
    provider: str
    precision: str
    threads: int
    is_spinning: bool


@dataclass(frozen=True)
class RunConfig:
    """How to run a model."""

    threads: int = 1
    is_spinning: bool = False


class Session(Protocol):
    """A loaded model."""

    def effective(self) -> Effective:
        """What it really runs on."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by their ONNX names."""


@runtime_checkable
class RuntimeAdapter(Protocol):
    """One engine."""

    name: str

    def probe(self) -> Probe:
        """Whether the engine is here; never raises, never downloads."""

    def load(self, model: Path | bytes, config: RunConfig) -> Session:
        """Load an ONNX model.

        Raises
        ------
        BuildError
            The engine refuses the model.
        """


__all__ = [
    "API_VERSION",
    "UNTOUCHED",
    "Allocator",
    "Criterion",
    "Effective",
    "Evidence",
    "FloatArray",
    "Group",
    "Member",
    "Probe",
    "Role",
    "RunConfig",
    "RuntimeAdapter",
    "Session",
    "Weights",
]
