"""What could be removed from a model and what could not, without removing anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shrinkc import recipe as recipes
from shrinkc.analysis.cost import Cost, CostModel
from shrinkc.analysis.groups import Analysis, Group, Refusal
from shrinkc.api import Role
from shrinkc.log import Progress, Silent
from shrinkc.opening import loaded, open_model


@dataclass(frozen=True)
class GroupSummary:
    """One group of channels that can be removed one by one.

    Attributes
    ----------
    macs, parameters : int
        What the model would be without, if the group lost all its channels but one.
    """

    name: str
    kind: str
    channels: int
    channels_per_step: int
    balance_cells: int
    tensors: int
    nodes: tuple[str, ...]
    is_exact: bool
    macs: int
    parameters: int


@dataclass(frozen=True)
class Inspection:
    """Groups, refusals and cost of a model."""

    model: str
    model_sha256: str
    input_shapes: dict[str, tuple[int, ...]]
    cost: Cost
    groups: tuple[GroupSummary, ...]
    refusals: tuple[Refusal, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        return {"schema": "shrinkc.inspection/1", **asdict(self)}


def inspect(
    model: str | os.PathLike[str],
    *,
    input_shapes: dict[str, tuple[int, ...]] | None = None,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    prune: str | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Find the groups of a model and the reasons for everything that must stay.

    Raises
    ------
    ShrinkcError
        The model cannot be read, or a pattern or shape does not fit it.
    """
    recipe = recipes.resolve(input_shapes=input_shapes, exclude=exclude, include=include, prune=prune)
    source, reporter = Path(model), progress or Silent()
    with loaded(source, reporter) as model_ir:
        opened = open_model(source, recipe, None, model_ir, reporter)
        dense = opened.cost.dense()
        return Inspection(
            source.name,
            opened.sha256,
            opened.shapes,
            Cost(dense.macs, dense.parameters, opened.size_bytes),
            tuple(_summary(opened.analysis, opened.cost, group, dense) for group in opened.analysis.groups),
            tuple(opened.analysis.refusals),
        )


def _summary(analysis: Analysis, cost: CostModel, group: Group, dense: Cost) -> GroupSummary:
    alone = cost.of(analysis.keep_mask({group.name: (0,)}))
    producers = {member.use.node.name or member.use.node.op_type for member in group.members if member.role is Role.PRODUCES}
    return GroupSummary(
        name=group.name,
        kind=group.kind.value,
        channels=group.width * group.multiplicity,
        channels_per_step=group.multiplicity,
        balance_cells=len(np.unique(group.cells)),
        tensors=len({member.use.tensor for member in group.members}),
        nodes=tuple(sorted(producers)),
        is_exact=group.is_exact,
        macs=dense.macs - alone.macs,
        parameters=dense.parameters - alone.parameters,
    )
