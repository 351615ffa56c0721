"""What could be removed from a model and what could not, without removing anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shrinkc import recipe as recipes
from shrinkc.analysis.constants import UNTOUCHED
from shrinkc.analysis.cost import Cost, CostModel
from shrinkc.analysis.forming import Group, Member
from shrinkc.analysis.groups import Analysis, Refusal
from shrinkc.analysis.remedies import remedy
from shrinkc.api import Role
from shrinkc.log import Progress, Silent
from shrinkc.opening import loaded, open_model


@dataclass(frozen=True)
class MemberSummary:
    """One axis of a stored tensor that goes with a group, and the node that reads it."""

    tensor: str
    axis: int
    length: int
    role: str
    node: str
    op_type: str


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
    members: tuple[MemberSummary, ...]


@dataclass(frozen=True)
class Inspection:
    """Groups, refusals and cost of a model.

    Attributes
    ----------
    prunable_macs, prunable_parameters : float
        Share that goes if every group keeps as little as it may.
    """

    model: str
    model_sha256: str
    input_shapes: dict[str, tuple[int, ...]]
    cost: Cost
    prunable_macs: float
    prunable_parameters: float
    groups: tuple[GroupSummary, ...]
    refusals: tuple[Refusal, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        data = asdict(self)
        for entry, refusal in zip(data["refusals"], self.refusals, strict=True):
            entry["remedy"] = remedy(refusal.blocker)
        return {"schema": "shrinkc.inspection/2", **data}


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
        dense, least = opened.cost.dense(), _least(opened.analysis, opened.cost)
        return Inspection(
            source.name,
            opened.sha256,
            opened.shapes,
            Cost(dense.macs, dense.parameters, opened.size_bytes),
            1 - least.macs / max(1, dense.macs),
            1 - least.parameters / max(1, dense.parameters),
            tuple(_summary(opened.analysis, opened.cost, group, dense) for group in opened.analysis.groups),
            tuple(opened.analysis.refusals),
        )


def _least(analysis: Analysis, cost: CostModel) -> Cost:
    """What is left if every group keeps one channel in each row it has."""
    firsts = {group.name: np.unique(group.cells, return_index=True)[1].tolist() for group in analysis.groups}
    return cost.of(analysis.named_mask(firsts))


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
        members=tuple(_member(member) for member in group.members),
    )


def _member(member: Member) -> MemberSummary:
    node = member.use.node
    tensor, length = member.use.tensor.name or "", int((member.index != UNTOUCHED).sum())
    return MemberSummary(tensor, member.axis, length, member.role.value, node.name or "", node.op_type)
